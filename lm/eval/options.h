// Options of evaluation and inspection: a model, a text, and the attention to look at.
#pragma once

#include <string>

#include "lm/model/config.h"

namespace hsattn::lm {

/// The name that stands for the attention that the model was trained with.
constexpr const char* kAsTrained = "trained";

/// The attention that `named` asks for: `trained` if its name is kAsTrained. Throws InvalidArgument if budgets are
/// given without a name, or do not fit.
AttentionOptions choose_attention(const AttentionOptions& named, const AttentionOptions& trained);

struct EvalOptions : Options {
  std::string model;
  std::string data;
  Index context = 1024;
  Index windows = 0;
  std::string precision = "auto";
  Index threads = 0;
  bool json = false;
  AttentionOptions attention;

  EvalOptions() { attention.attention = kAsTrained; }
  void visit(OptionVisitor& option) override {
    option("model", model, "a run folder (its newest checkpoint), a checkpoint, or a .safetensors file");
    option("data", data, "folder written by `hsattn prepare` (its held-out part), or a token file");
    option("context", context, "tokens of a window");
    option("windows", windows, "windows, evenly spread over the text; 0: all");
    option("precision", precision, "auto | float32 | bf16");
    option("threads", threads, "0: all processors");
    option("json", json, "print one JSON object");
    attention.visit(option);
  }
  void apply_preset() override { attention.apply_preset(); }
};

struct InspectOptions : Options {
  std::string model;
  std::string text;
  std::string out = "attention.html";
  Index context = 4096;
  Index positions = 64;
  Index layer = -1;
  Index head = 0;
  Index threads = 0;
  bool json = false;
  AttentionOptions attention;

  InspectOptions() { attention.attention = kAsTrained; }
  void visit(OptionVisitor& option) override {
    option("model", model, "a run folder (its newest checkpoint), a checkpoint, or a .safetensors file");
    option("text", text, "a text, .gz, .jsonl or token file; its first document is read");
    option("out", out, "HTML file to write");
    option("context", context, "tokens of the text to look at, from its start");
    option("positions", positions, "positions that are measured, evenly spread");
    option("layer", layer, "layer that is drawn; -1: the last one");
    option("head", head, "query head that is drawn");
    option("threads", threads, "0: all processors");
    option("json", json, "print one JSON object instead of the table");
    attention.visit(option);
  }
  void apply_preset() override { attention.apply_preset(); }
};

}  // namespace hsattn::lm
