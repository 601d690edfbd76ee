#include "lm/eval/self_check.h"

#include <chrono>
#include <cmath>
#include <functional>

#include "hsattn/base/cpu.h"
#include "lm/data/files.h"
#include "lm/eval/check_op.h"
#include "lm/model/attention.h"
#include "lm/train/environment.h"

namespace hsattn::lm {
namespace {

constexpr Index kTokens = 700;          // short, with budgets so small that every stage of the search acts
constexpr double kAllowedError = 2e-5;  // as a share of the largest value; float32 gives about 1e-6
constexpr double kEnoughMemoryMib = 1024;

PlanOptions small_budgets(const std::string& pattern) {
  PlanOptions options;
  options.pattern = pattern_from_name(pattern);
  HsaOptions& o = options.hsa;
  o.window = 16, o.top_k = 64, o.candidates = 128, o.top_nodes = 8, o.dense_until = 0, o.far_field = true;
  return options;
}

at::Tensor noise(Index heads, int seed) {
  const at::Generator generator = at::detail::createCPUGenerator(static_cast<uint64_t>(seed));
  return at::empty({1, heads, kTokens, 64}, at::kFloat).normal_(0, 1, generator);
}

std::string check_pattern(const std::string& pattern, bool& good) {
  const OpCheck result = check_op(small_budgets(pattern), noise(4, 1), noise(2, 2), noise(2, 3), 16, /*backward=*/true);
  good = result.forward_error <= kAllowedError && result.backward_error <= kAllowedError;
  return concat("error ", result.forward_error, " forward, ", result.backward_error, " backward; at most ",
                kAllowedError, " is right");
}

std::string check_sdpa(bool& good) {
  const at::NoGradGuard no_gradient;
  const at::Tensor q = noise(4, 1), k = noise(4, 2), v = noise(4, 3);
  const at::Tensor ours = std::get<0>(op_forward(small_budgets("full"), q, k, v, /*keep_plan=*/false));
  const at::Tensor theirs = at::scaled_dot_product_attention(q, k, v, {}, 0.0, /*is_causal=*/true);
  const double error = (ours - theirs).abs().max().item<double>();
  good = error <= kAllowedError;
  return concat("largest difference ", error, "; at most ", kAllowedError, " is right");
}

std::string kernels() {
  std::string text;
  for (const Isa isa : available_isas()) text += concat(text.empty() ? "" : ", ", name_of(isa));
  return concat(text, "; used: ", name_of(selected_isa()));
}

}  // namespace

std::vector<Finding> self_check() {
  std::vector<Finding> findings;
  const auto look = [&](const std::string& name, const std::function<std::string(bool&)>& body) {
    Finding finding{name, "", true};
    try {
      finding.detail = body(finding.good);
    } catch (const std::exception& error) {
      finding.good = false;
      const std::string what = error.what();
      finding.detail = what.substr(0, what.find('\n'));
    }
    findings.push_back(finding);
  };
  look("program",
       [](bool&) { return build_commit().empty() ? std::string("built outside git") : "commit " + build_commit(); });
  look("processor", [](bool&) { return describe_processor(); });
  look("kernels", [](bool&) { return kernels(); });
  look("torch", [](bool&) { return torch_version(); });
  look("threads", [](bool&) { return concat(use_threads(0)); });
  look("precision", [](bool&) {
    return std::string(has_fast_bf16() ? "bf16 instructions: training uses bf16 autocast"
                                       : "no bf16 instructions: training uses float32");
  });
  look("memory", [](bool& good) {
    const double available = available_memory_mib();
    good = available <= 0 || available >= kEnoughMemoryMib;
    return concat(std::llround(available), " MiB available of ", std::llround(total_memory_mib()), "; at least ",
                  std::llround(kEnoughMemoryMib), " is right");
  });
  for (const char* pattern : {"full", "local", "hsa"}) {
    look(concat("answers, ", pattern), [&](bool& good) { return check_pattern(pattern, good); });
  }
  look("full equals SDPA", check_sdpa);
  return findings;
}

}  // namespace hsattn::lm
