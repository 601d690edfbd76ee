#include "lm/pretrained/options.h"

#include "hsattn/base/error.h"

namespace hsattn::lm {

PretrainedOptions::PretrainedOptions() {
  attention.preset = "any_model";
  attention.apply_preset();
}

void PretrainedOptions::visit(OptionVisitor& option) {
  visit_all_but_attention(option);
  option("attention", attention.attention, (patterns_for_help() + " | sdpa | standard").c_str());
}

void PretrainedOptions::visit_all_but_attention(OptionVisitor& option) {
  option("model", model, "folder of a model of the Llama, Qwen2, Qwen3 or Mistral kind, as Hugging Face has it");
  option("precision", precision, "auto | float32 | bf16; auto: bf16 where the processor multiplies it");
  option("threads", threads, "0: all processors");
  option("chunk", chunk, "a prompt is read in pieces of so many tokens; 0: at once");
  option("model_budgets", model_budgets,
         "start from the budgets of the model's hsattn.json, or of config.json's key hsattn");
  attention.visit_budgets(option);
}

void PretrainedOptions::apply_preset() {
  attention.apply_preset();
  if (model_budgets && is_pretrained_folder(model)) set_model_budgets(read_pretrained_config(model), attention);
}

void check_pretrained_options(const PretrainedOptions& o) {
  check(!o.model.empty(), "no --model; name a folder with config.json, tokenizer.json and weights");
  check(o.threads >= 0 && o.threads <= 4096, "threads is ", o.threads, "; 0 to 4096 is right");
  check(o.chunk >= 0, "chunk is ", o.chunk, "; at least 0 is right");
  check(o.precision == "auto" || o.precision == "float32" || o.precision == "bf16", "precision is ", o.precision,
        "; auto, float32 or bf16 are right");
  check_attention_options(o.attention);
  check_pretrained_attention(o.attention);
}

void check_budgets_of_hsa(const PretrainedOptions& o) {
  check(o.attention.attention == "hsa", "the model's budgets name the pattern ", o.attention.attention,
        "; hsa is right, or --no-model-budgets, which forgets them");
}

}  // namespace hsattn::lm
