#include "cli/eval_pretrained.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "cli/progress.h"
#include "hsattn/base/error.h"
#include "lm/pretrained/perplexity.h"

namespace hsattn::cli {
namespace {

void print_json(const lm::PretrainedEvalOptions& o, const lm::Runtime& runtime, const lm::PerplexityReport& r,
                std::ostream& out) {
  const nlohmann::ordered_json json = {{"model", o.model},
                                       {"text", o.text},
                                       {"attention", o.attention.attention},
                                       {"precision", runtime.precision()},
                                       {"context", r.context},
                                       {"windows", r.windows},
                                       {"tokens", r.losses.size()},
                                       {"bytes", r.bytes},
                                       {"perplexity", std::exp(r.loss())},
                                       {"perplexity_last_half", std::exp(r.loss_last_half())},
                                       {"perplexity_per_byte", std::exp(r.loss_per_byte())},
                                       {"loss", r.loss()},
                                       {"tokens_per_s", static_cast<double>(r.losses.size()) / r.seconds},
                                       {"losses", r.losses}};
  out << json.dump() << "\n";
}

void print_table(const lm::PretrainedEvalOptions& o, const lm::Runtime& runtime, const lm::PerplexityReport& r,
                 std::ostream& out) {
  out << "model                           " << o.model << "\n"
      << "attention                       " << o.attention.attention << ", " << runtime.precision() << "\n"
      << "text                            " << r.windows << " windows of " << r.context << " tokens of " << o.text
      << "\n"
      << "perplexity per token            " << fixed(std::exp(r.loss()), 4) << "\n"
      << "  last half of the context      " << fixed(std::exp(r.loss_last_half()), 4) << "\n"
      << "perplexity per byte             " << fixed(std::exp(r.loss_per_byte()), 4) << "  (" << r.bytes << " bytes)\n"
      << "speed                           " << fixed(static_cast<double>(r.losses.size()) / r.seconds, 0)
      << " tokens/s\n";
}

// The logits of the first window, for comparison with other programs.
void write_logits(const lm::PretrainedEvalOptions& o, lm::Runtime& runtime, std::ostream& out) {
  std::vector<lm::Token> tokens = lm::tokens_of_text(runtime, o.text);
  check(static_cast<Index>(tokens.size()) >= o.context, o.text, " has ", tokens.size(), " tokens; --context ",
        o.context, " needs as many");
  tokens.resize(static_cast<std::size_t>(o.context));
  runtime.write_logits(tokens, o.logits);
  out << o.logits << ": logits [" << tokens.size() << ", " << runtime.config().vocabulary << "]\n";
}

}  // namespace

int eval_pretrained(const Arguments& arguments, std::ostream& out) {
  lm::PretrainedEvalOptions options;
  parse_arguments(arguments, options);
  lm::check_perplexity_options(options);
  lm::Runtime runtime(options);
  if (!options.logits.empty()) {
    write_logits(options, runtime, out);
    return kSuccess;
  }
  Progress progress;
  const lm::PerplexityReport report = lm::measure_perplexity(
      runtime, options, interrupted(), [&](Index done, Index all) { progress.count(done, all, "windows"); });
  progress.finish();
  if (report.interrupted) return kInterrupted;
  (options.json ? print_json : print_table)(options, runtime, report, out);
  return kSuccess;
}

void print_pretrained_eval_options(std::ostream& out) {
  lm::PretrainedEvalOptions options;
  print_options(options, out);
}

}  // namespace hsattn::cli
