#include <cmath>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/eval_pretrained.h"
#include "cli/progress.h"
#include "lm/eval/run_evaluation.h"
#include "lm/pretrained/config.h"

namespace hsattn::cli {
namespace {

// Of units of text: all the loss, spread over them. Not a number if there are none.
double perplexity_per(Index units, const lm::EvalResult& e) {
  return std::exp(e.loss * static_cast<double>(e.tokens) / static_cast<double>(units));
}

void print_json(const lm::EvalOptions& o, const lm::EvalReport& r, std::ostream& out) {
  const lm::EvalResult& e = r.result;
  const nlohmann::ordered_json json = {{"model", r.model_file},
                                       {"data", r.data_file},
                                       {"attention", r.attention.attention},
                                       {"precision", r.precision},
                                       {"context", o.context},
                                       {"windows", e.windows},
                                       {"tokens", e.tokens},
                                       {"bytes", e.bytes},
                                       {"words", e.words},
                                       {"eval_loss", e.loss},
                                       {"eval_perplexity", std::exp(e.loss)},
                                       {"eval_perplexity_per_word", perplexity_per(e.words, e)},
                                       {"eval_perplexity_per_byte", perplexity_per(e.bytes, e)},
                                       {"eval_perplexity_last_quarter", std::exp(e.loss_last_quarter)},
                                       {"forward_ms", e.forward_ms},
                                       {"tokens_per_s", e.tokens_per_s},
                                       {"attention_share", e.attention_share},
                                       {"peak_memory_mib", r.peak_memory_mib}};
  out << json.dump() << "\n";
}

void print_table(const lm::EvalOptions& o, const lm::EvalReport& r, std::ostream& out) {
  const lm::EvalResult& e = r.result;
  out << "model                           " << r.model_file << "\n"
      << "attention                       " << r.attention.attention << ", " << r.precision << "\n"
      << "text                            " << e.windows << " windows of " << o.context << " tokens of " << r.data_file
      << "\n"
      << "perplexity per token            " << fixed(std::exp(e.loss), 4) << "\n"
      << "  last quarter of the context   " << fixed(std::exp(e.loss_last_quarter), 4) << "\n"
      << "perplexity per word             " << fixed(perplexity_per(e.words, e), 4) << "  (" << e.words << " words)\n"
      << "perplexity per byte             " << fixed(perplexity_per(e.bytes, e), 4) << "  (" << e.bytes << " bytes)\n"
      << "forward pass of one window      " << fixed(e.forward_ms, 1) << " ms, " << fixed(100 * e.attention_share, 0)
      << "% of it attention\n";
}

// The folder that --model names.
std::string model_of(const Arguments& arguments) {
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i].starts_with("--model=")) return arguments[i].substr(8);
    if (arguments[i] == "--model" && i + 1 < arguments.size()) return arguments[i + 1];
  }
  return {};
}

int run(const Arguments& arguments, std::ostream& out) {
  if (lm::is_pretrained_folder(model_of(arguments))) return eval_pretrained(arguments, out);
  lm::EvalOptions options;
  parse_arguments(arguments, options);
  if (options.model.empty()) throw UsageError("no --model; name a run folder, a checkpoint or a .safetensors file");
  if (options.data.empty()) throw UsageError("no --data; name a folder written by `hsattn prepare`, or a token file");
  lm::check_eval_options(options);
  Progress progress;
  const lm::EvalReport report =
      lm::run_evaluation(options, interrupted(), [&](Index done, Index all) { progress.count(done, all, "windows"); });
  progress.finish();
  if (report.result.interrupted) return kInterrupted;
  if (options.json) {
    print_json(options, report, out);
  } else {
    print_table(options, report, out);
  }
  return kSuccess;
}

void print(std::ostream& out) {
  lm::EvalOptions options;
  out << "of a model that `hsattn train` made:\n";
  print_options(options, out);
  out << "\nof a Hugging Face folder:\n";
  print_pretrained_eval_options(out);
}

}  // namespace

Command eval_command() {
  return {"eval", "perplexity of a model, own or pretrained, on held-out text",
          "  hsattn eval --model runs/hsa --data runs/data --context 4096\n"
          "  hsattn eval --model runs/sdpa --data runs/data --attention hsa --preset any_model --json\n"
          "  hsattn eval --model models/smollm2-135m-instruct --text data/held_out --context 4096 --windows 2\n",
          run, print};
}

}  // namespace hsattn::cli
