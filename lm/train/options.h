// Options of a training run; what config.json in a run folder holds.
#pragma once

#include <string>

#include "lm/model/config.h"
#include "lm/options/option_visitor.h"

namespace hsattn::lm {

struct TrainOptions : Options {
  std::string data;
  std::string run;
  ModelConfig model;
  Index context = 1024;
  Index batch = 1;
  Index accumulate = 1;
  Index steps = 1000;
  double learning_rate = 1e-3;
  double min_learning_rate = 0.1;
  Index warmup = 50;
  double weight_decay = 0.1;
  double beta1 = 0.9, beta2 = 0.95;
  double clip = 1.0;
  std::string precision = "auto";
  bool checkpointing = false;
  Index seed = 1;
  Index threads = 0;
  Index log_every = 10;
  Index eval_every = 0;
  Index eval_windows = 16;
  Index save_every = 100;
  Index keep = 2;
  Index stop_at = 0;
  std::string init;
  bool aligned = false;
  bool answers_only = false;
  Index first_top_k = 0;
  Index first_steps = 0;
  Index short_context = 0;
  Index short_steps = 0;
  Index copy_steps = 0;

  TrainOptions() { model.vocabulary = 0; }
  void visit(OptionVisitor& option) override {
    option("data", data, "folder written by `hsattn prepare`");
    option("run", run, "folder of this run: configuration, metrics, checkpoints");
    model.visit(option);
    option("context", context, "tokens of a training window");
    option("batch", batch, "windows per forward pass");
    option("accumulate", accumulate, "forward passes per step; their gradients are averaged");
    option("steps", steps, "steps of the whole run; the learning rate follows a cosine to this one");
    option("learning_rate", learning_rate, "highest learning rate");
    option("min_learning_rate", min_learning_rate, "learning rate at the end, as a share of the highest");
    option("warmup", warmup, "first steps, in which the learning rate rises linearly");
    option("weight_decay", weight_decay, "AdamW's decay of matrices");
    option("beta1", beta1, "AdamW's first decay rate");
    option("beta2", beta2, "AdamW's second decay rate");
    option("clip", clip, "largest norm of the gradient; 0: unlimited");
    option("precision", precision, "auto | float32 | bf16 (autocast; needs a processor with bf16 instructions)");
    option("checkpointing", checkpointing, "recompute each block in backward: less memory, about a third more time");
    option("seed", seed, "decides the initial weights and the order of the data");
    option("threads", threads, "0: all processors");
    option("log_every", log_every, "steps between log lines; metrics.jsonl has every step");
    option("eval_every", eval_every, "steps between evaluations on held-out text; 0: at the end only");
    option("eval_windows", eval_windows, "held-out windows per evaluation; 0: all");
    option("save_every", save_every, "steps between checkpoints; one is written at the end in any case");
    option("keep", keep, "checkpoints to keep, the newest");
    option("stop_at", stop_at, "stop and save after this step, to go on later with --resume; 0: never");
    option("init", init,
           "begin with the weights of this model (a run folder, a checkpoint or a file), of the same shape");
    option("aligned", aligned, "windows begin where documents do, all of `context` tokens: samples of `hsattn task`");
    option("answers_only", answers_only, "the loss of answers alone: bytes between > and ; of `hsattn task`");
    option("first_top_k", first_top_k, "top_k of the first steps; candidates grow by as much");
    option("first_steps", first_steps, "steps with first_top_k");
    option("short_context", short_context,
           "tokens of a window in the first short_steps steps, a divisor of context; as many tokens a step, in more "
           "windows");
    option("short_steps", short_steps, "steps with short_context");
    option("copy_steps", copy_steps,
           "first steps, on random tokens whose passages come again, in place of the text: a model learns to copy from "
           "them sooner than from text");
  }
  void apply_preset() override { model.apply_preset(); }
};

/// The attention of a step, counted from 1: with a larger budget in the first ones.
AttentionOptions attention_at(const TrainOptions& options, Index step);

/// How long the windows of a step are, and how many one forward pass takes.
struct WindowShape {
  Index context = 0, batch = 0;
};

/// Of a step, counted from 1: shorter and more in the first ones.
WindowShape windows_at(const TrainOptions& options, Index step);

/// Throws InvalidArgument, naming the option.
void check_train_options(const TrainOptions& options);

}  // namespace hsattn::lm
