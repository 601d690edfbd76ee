// hsattn: one program, one sub-command per task. Results go to stdout, progress and errors to stderr.
// Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted (what was to be saved is saved).
#include <csignal>
#include <cstring>
#include <iomanip>
#include <iostream>
#include <sstream>

#include "cli/commands.h"
#include "hsattn/base/error.h"

namespace hsattn::cli {
namespace {

std::atomic<bool> interrupted_flag{false};

// The first signal asks; a second one ends the program at once.
void on_signal(int signal) {
  interrupted_flag = true;
  std::signal(signal, SIG_DFL);
}

void print_help(std::ostream& out) {
  out << "hsattn: hierarchical sparse attention\n\nusage: hsattn COMMAND [--option value ...]\n\ncommands:\n";
  for (const Command& command : commands()) {
    out << "  " << std::left << std::setw(12) << command.name << command.summary << "\n";
  }
  out << "\n`hsattn COMMAND --help` lists the options and gives examples.\n";
}

void print_command_help(const Command& command, std::ostream& out) {
  out << "hsattn " << command.name << ": " << command.summary << "\n\noptions [default]:\n";
  command.print_options(out);
  out << "\nexamples:\n" << command.examples;
}

std::string first_line(const char* text) {
  const char* end = std::strchr(text, '\n');
  return end == nullptr ? text : std::string(text, end);
}

// Results are written at once, when they are whole; a full disk or a closed pipe is an error.
int write_result(const std::string& who, const std::string& result, int code) {
  std::cout << result << std::flush;
  if (std::cout) return code;
  std::cerr << who << ": cannot write the result to stdout\n";
  return kFailure;
}

int run_command(const Command& command, const Arguments& arguments) {
  std::ostringstream out;
  int code = kSuccess;
  if (asks_for_help(arguments)) {
    print_command_help(command, out);
  } else {
    code = command.run(arguments, out);
  }
  return write_result(concat("hsattn ", command.name), out.str(), code);
}

int run(const Arguments& arguments) {
  if (arguments.empty() || arguments[0] == "--help" || arguments[0] == "-h" || arguments[0] == "help") {
    std::ostringstream help;
    print_help(help);
    if (!arguments.empty()) return write_result("hsattn", help.str(), kSuccess);
    std::cerr << help.str();
    return kUsage;
  }
  for (const Command& command : commands()) {
    if (arguments[0] != command.name) continue;
    const std::string who = std::string("hsattn ") + command.name + ": ";
    try {
      return run_command(command, {arguments.begin() + 1, arguments.end()});
    } catch (const InvalidArgument& error) {  // what the command line asks for does not fit
      std::cerr << who << first_line(error.what()) << "\n";
      return kUsage;
    } catch (const std::bad_alloc&) {
      std::cerr << who << "out of memory\n";
    } catch (const std::exception& error) {
      std::cerr << who << first_line(error.what()) << "\n";
    }
    return kFailure;
  }
  std::cerr << "hsattn: unknown command " << arguments[0] << "; `hsattn --help` lists them\n";
  return kUsage;
}

}  // namespace

const std::atomic<bool>& interrupted() { return interrupted_flag; }

}  // namespace hsattn::cli

int main(int argc, char** argv) {
  std::signal(SIGINT, hsattn::cli::on_signal);
  std::signal(SIGTERM, hsattn::cli::on_signal);
  std::signal(SIGPIPE, SIG_IGN);  // a closed pipe becomes a failed write, which is reported
  std::signal(SIGXFSZ, SIG_IGN);  // so does a file over the limit of its size
  return hsattn::cli::run({argv + 1, argv + argc});
}
