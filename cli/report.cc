#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <iostream>

#include "cli/commands.h"
#include "hsattn/base/error.h"
#include "lm/experiments/child.h"

namespace hsattn::cli {
namespace {

namespace fs = std::filesystem;

struct ReportOptions : lm::Options {
  std::vector<std::string> results;
  std::string out;
  std::string png;
  std::string python = "python3";

  void visit(lm::OptionVisitor& option) override {
    option("results", results, "folder written by `hsattn reproduce`; also without the option's name");
    option("out", out, "HTML file to write; RESULTS/report.html unless given");
    option("png", png, "folder for a picture of each figure, drawn by headless Chromium");
    option("python", python, "the Python that runs the report, 3.10 or newer; it needs no packages");
  }
};

// The folder that holds the Python package `report`: beside the program where it is installed, above it in a build
// tree.
std::string folder_of_report() {
  const fs::path here = fs::path(lm::this_program()).parent_path();
  std::vector<fs::path> places = {here.parent_path() / "share" / "hsattn"};
  for (fs::path folder = here; folder != folder.root_path(); folder = folder.parent_path()) places.push_back(folder);
  for (const fs::path& place : places) {
    if (fs::exists(place / "report" / "results_page.py")) return place.string();
  }
  throw Error(concat("the report's files are not there; ", places[0].string(), "/report, or a folder above ",
                     here.string(), ", is right"));
}

int run(const Arguments& arguments, std::ostream& out) {
  ReportOptions options;
  parse_arguments(arguments, options, "results");
  if (options.results.size() != 1) throw UsageError("name one folder that `hsattn reproduce` wrote");
  const std::string results = options.results[0];
  if (!fs::is_directory(results)) throw Error(results + ": no such folder");
  if (options.out.empty()) options.out = results + "/report.html";
  const std::string folder = folder_of_report();
  const char* path = std::getenv("PYTHONPATH");
  ::setenv("PYTHONPATH", path == nullptr ? folder.c_str() : concat(folder, ":", path).c_str(), 1);
  std::vector<std::string> words = {options.python, "-B", "-m", "report", "--results", results, "--out", options.out};
  if (!options.png.empty()) words.insert(words.end(), {"--png", options.png});
  std::vector<char*> pointers;
  for (std::string& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  out << std::flush;
  ::execvp(pointers[0], pointers.data());
  throw Error(concat("cannot run ", options.python, ": ", std::strerror(errno),
                     "; the report needs Python 3.10 or newer, --python names one"));
}

void print(std::ostream& out) {
  ReportOptions options;
  print_options(options, out);
}

}  // namespace

Command report_command() {
  return {"report", "the page of what `hsattn reproduce` found: one HTML file",
          "  hsattn report runs/reproduce-quick\n"
          "  hsattn report results/small --out small.html --png docs/figures\n",
          run, print};
}

}  // namespace hsattn::cli
