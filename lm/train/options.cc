#include "lm/train/options.h"

#include "hsattn/base/error.h"

namespace hsattn::lm {

AttentionOptions attention_at(const TrainOptions& o, Index step) {
  AttentionOptions attention = o.model.attention;
  if (step > o.first_steps || o.first_top_k == 0) return attention;
  attention.hsa.candidates = attention.hsa.candidates * o.first_top_k / attention.hsa.top_k;
  attention.hsa.top_k = o.first_top_k;
  attention.hsa.head_top_k.clear();
  return attention;
}

WindowShape windows_at(const TrainOptions& o, Index step) {
  if (step > o.short_steps) return {o.context, o.batch};
  return {o.short_context, o.batch * (o.context / o.short_context)};
}

namespace {

void check_short_context(const TrainOptions& o) {
  check(o.short_steps >= 0, "short_steps is ", o.short_steps, "; at least 0 is right");
  if (o.short_steps == 0 && o.short_context == 0) return;
  check(o.short_context >= 1 && o.context % o.short_context == 0, "short_context is ", o.short_context,
        "; a divisor of context, ", o.context, ", is right");
  check(!o.aligned || o.short_steps <= o.copy_steps,
        "short_steps beyond copy_steps do not go with aligned: a sample is a whole window");
}

}  // namespace

void check_train_options(const TrainOptions& o) {
  check(!o.data.empty(), "no --data; name a folder written by `hsattn prepare`");
  check(!o.run.empty(), "no --run; name the folder of the run");
  ModelConfig model = o.model;
  if (model.vocabulary == 0) model.vocabulary = ModelConfig().vocabulary;  // comes with the data
  check_model_config(model);
  const AttentionOptions& attention = o.model.attention;
  check(!attention.has_pooler() || attention.hsa.far_field, "pooling is ", attention.pooling,
        ", whose parameters learn through the far field alone, and that is off; --far-field is right");
  check(attention.hsa.tail == 0, "tail is ", attention.hsa.tail, ", which has no gradient; 0 is right in training");
  check(o.context >= 1 && o.context <= 1 << 24, "context is ", o.context, "; 1 to 16777216 is right");
  check_context(o.model.attention, o.context);
  check(o.batch >= 1 && o.batch <= 1 << 16, "batch is ", o.batch, "; 1 to 65536 is right");
  check(o.accumulate >= 1 && o.accumulate <= 1 << 16, "accumulate is ", o.accumulate, "; 1 to 65536 is right");
  check(o.steps >= 1, "steps is ", o.steps, "; at least 1 is right");
  check(o.learning_rate > 0, "learning_rate is ", o.learning_rate, "; more than 0 is right");
  check(o.min_learning_rate >= 0 && o.min_learning_rate <= 1, "min_learning_rate is ", o.min_learning_rate,
        "; a share from 0 to 1 is right");
  check(o.warmup >= 0, "warmup is ", o.warmup, "; at least 0 is right");
  check(o.weight_decay >= 0, "weight_decay is ", o.weight_decay, "; at least 0 is right");
  check(o.beta1 >= 0 && o.beta1 < 1, "beta1 is ", o.beta1, "; 0 to 1, without 1, is right");
  check(o.beta2 >= 0 && o.beta2 < 1, "beta2 is ", o.beta2, "; 0 to 1, without 1, is right");
  check(o.clip >= 0, "clip is ", o.clip, "; at least 0 is right");
  check(o.precision == "auto" || o.precision == "float32" || o.precision == "bf16", "precision is ", o.precision,
        "; auto, float32 or bf16 are right");
  check(o.threads >= 0 && o.threads <= 4096, "threads is ", o.threads, "; 0 to 4096 is right");
  check(o.log_every >= 1 && o.save_every >= 1, "log_every is ", o.log_every, ", save_every is ", o.save_every,
        "; at least 1 is right");
  check(o.eval_every >= 0 && o.eval_windows >= 0, "eval_every is ", o.eval_every, ", eval_windows is ", o.eval_windows,
        "; at least 0 is right");
  check(o.keep >= 1, "keep is ", o.keep, "; at least 1 is right");
  check(o.stop_at >= 0, "stop_at is ", o.stop_at, "; at least 0 is right");
  check(o.first_steps >= 0, "first_steps is ", o.first_steps, "; at least 0 is right");
  check_short_context(o);
  check(o.copy_steps >= 0 && o.copy_steps <= o.steps, "copy_steps is ", o.copy_steps, "; 0 to steps, ", o.steps,
        ", is right");
  check(o.first_top_k == 0 || o.model.attention.hsa.top_k > 0, "first_top_k is ", o.first_top_k,
        ", top_k is 0; a top_k of at least 1 is right");
  check_attention_options(attention_at(o, 1));
}

}  // namespace hsattn::lm
