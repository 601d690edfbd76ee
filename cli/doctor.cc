#include <algorithm>
#include <iomanip>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "lm/eval/self_check.h"

namespace hsattn::cli {
namespace {

struct DoctorOptions : lm::Options {
  bool json = false;

  void visit(lm::OptionVisitor& option) override { option("json", json, "print one JSON object"); }
};

int run(const Arguments& arguments, std::ostream& out) {
  DoctorOptions options;
  parse_arguments(arguments, options);
  const std::vector<lm::Finding> findings = lm::self_check();
  const auto bad = std::count_if(findings.begin(), findings.end(), [](const lm::Finding& f) { return !f.good; });
  if (options.json) {
    nlohmann::ordered_json json = {{"good", bad == 0}, {"findings", nlohmann::ordered_json::array()}};
    for (const lm::Finding& f : findings)
      json["findings"].push_back({{"name", f.name}, {"good", f.good}, {"detail", f.detail}});
    out << json.dump() << "\n";
  } else {
    for (const lm::Finding& f : findings) {
      out << (f.good ? "ok    " : "FAIL  ") << std::left << std::setw(18) << f.name << f.detail << "\n";
    }
    out << (bad == 0 ? "everything works here\n" : std::to_string(bad) + " of these fail\n");
  }
  return bad == 0 ? kSuccess : kFailure;
}

void print(std::ostream& out) {
  DoctorOptions options;
  print_options(options, out);
}

}  // namespace

Command doctor_command() {
  return {"doctor", "what is installed, which kernels run, whether answers are right; exit code 1 if not",
          "  hsattn doctor\n"
          "  HSATTN_ISA=portable hsattn doctor\n",
          run, print};
}

}  // namespace hsattn::cli
