#include "lm/eval/run_evaluation.h"

#include <filesystem>

#include "hsattn/base/error.h"
#include "lm/data/token_file.h"
#include "lm/eval/text_units.h"
#include "lm/model/data_fit.h"
#include "lm/model/model_file.h"
#include "lm/train/environment.h"

namespace hsattn::lm {

void check_eval_options(const EvalOptions& o) {
  check(o.context >= 1 && o.context <= 1 << 24, "context is ", o.context, "; 1 to 16777216 is right");
  check(o.windows >= 0, "windows is ", o.windows, "; at least 0 is right");
  check(o.threads >= 0 && o.threads <= 4096, "threads is ", o.threads, "; 0 to 4096 is right");
  check(o.precision == "auto" || o.precision == "float32" || o.precision == "bf16", "precision is ", o.precision,
        "; auto, float32 or bf16 are right");
  choose_attention(o.attention, AttentionOptions());
}

EvalReport run_evaluation(const EvalOptions& options, const std::atomic<bool>& interrupted,
                          const std::function<void(Index, Index)>& progress) {
  check_eval_options(options);
  use_threads(options.threads);
  EvalReport report;
  report.precision = resolve_precision(options.precision);
  report.model_file = model_file_of(options.model);
  report.data_file = std::filesystem::is_directory(options.data) ? options.data + "/heldout.tokens" : options.data;
  const auto model = load_model(report.model_file);
  const TokenFile text(report.data_file);
  check_fits(model->config(), text);
  report.attention = choose_attention(options.attention, model->config().attention);
  model->set_attention(report.attention);
  const TextUnits units(text);
  report.result = evaluate_model(*model, text, options.context, options.windows, report.precision == "bf16",
                                 interrupted, progress, &units);
  report.peak_memory_mib = peak_memory_mib();
  return report;
}

}  // namespace hsattn::lm
