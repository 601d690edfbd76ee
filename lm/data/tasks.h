// Texts that ask for what stood far before: facts in noise, questions at the end. No torch here.
//
// A sample is `length` bytes: lower-case noise with facts "TAG:VALUE;" strewn into it, then a question "?TAG>VALUE;"
// for each, in another order, and a zero byte. The answer is the bytes between > and ; of a question.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "lm/options/option_visitor.h"

namespace hsattn::lm {

struct TaskOptions : Options {
  std::string task = "passkey";
  Index length = 512;
  Index samples = 1000;
  Index held_out = 1000;
  std::string out;
  Index seed = 1;

  void visit(OptionVisitor& option) override {
    option("task", task, "passkey (4 numbers of 5 digits) | recall (many short facts) | copy (4 texts of 16 letters)");
    option("length", length, "bytes of a sample, the context to train with");
    option("samples", samples, "samples to train on");
    option("held_out", held_out, "samples to ask about; others than those trained on");
    option("out", out, "folder to write, as `hsattn prepare` does");
    option("seed", seed, "decides the samples");
  }
};

/// Throws InvalidArgument for options that do not fit, FileError for files.
void write_task(const TaskOptions& options);

/// One answer in a window of tokens: tokens [begin, end) are its bytes, `distance` tokens behind the fact's.
struct Answer {
  Index begin = 0, end = 0, distance = 0;
};

/// The answers of a window that begins with a sample, in order.
std::vector<Answer> answers_in(std::span<const std::int64_t> tokens);

}  // namespace hsattn::lm
