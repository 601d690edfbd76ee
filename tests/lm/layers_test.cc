#include "lm/model/layers.h"

#include <gtest/gtest.h>

#include "lm/data/files.h"
#include "lm/eval/bench_tensors.h"
#include "lm/model/safetensors.h"
#include "lm/train/optimizer.h"
#include "tests/lm/temporary_folder.h"

namespace hsattn::lm {
namespace {

using at::Tensor;
using test::message_of;
using test::TemporaryFolder;

Tensor noise(at::IntArrayRef sizes, int seed) {
  const at::Generator generator = at::detail::createCPUGenerator(static_cast<uint64_t>(seed));
  return at::empty(sizes, at::kFloat).normal_(0, 1, generator);
}

double difference(const Tensor& a, const Tensor& b) { return (a - b).abs().max().item<double>(); }

TEST(ChunkedCrossEntropy, EqualsTorchAndSoDoItsGradients) {
  constexpr int64_t kTokens = 2500, kVocabulary = 50;  // three chunks, the last one ragged
  const Tensor h = noise({kTokens, 16}, 1).requires_grad_(), e = noise({kVocabulary, 16}, 2).requires_grad_();
  const Tensor targets = at::arange(kTokens).remainder(kVocabulary);
  const Tensor loss = chunked_cross_entropy(h, e, targets);
  const Tensor exact = at::cross_entropy_loss(at::matmul(h, e.t()), targets);
  EXPECT_NEAR(loss.item<double>(), exact.item<double>(), 1e-5);
  EXPECT_NEAR(token_losses(h, e, targets).mean().item<double>(), exact.item<double>(), 1e-5);
  const auto got = torch::autograd::grad({loss * 3}, {h, e}), wanted = torch::autograd::grad({exact * 3}, {h, e});
  EXPECT_LE(difference(got[0], wanted[0]), 1e-6);
  EXPECT_LE(difference(got[1], wanted[1]), 1e-5);
}

TEST(Rotate, ScoresDependOnTheDistanceAlone) {
  const RotaryTable table = rotary_table(64, 32, 10000);
  const Tensor q = noise({1, 1, 1, 32}, 1).expand({1, 64, 1, 32}), k = noise({1, 1, 1, 32}, 2).expand({1, 64, 1, 32});
  const Tensor rq = rotate(q, table).view({64, 32}), rk = rotate(k, table).view({64, 32});
  const Tensor scores = at::matmul(rq, rk.t());
  EXPECT_LE(difference(scores.slice(0, 1).slice(1, 1), scores.slice(0, 0, 63).slice(1, 0, 63)), 2e-5);
  EXPECT_GT(difference(scores[40], scores[0]), 0.1);
  EXPECT_LE(difference(rq.norm(2, 1), q.view({64, 32}).norm(2, 1)), 1e-5);
}

TEST(MixInTime, EqualsTheFormulaAndSoDoItsGradients) {
  constexpr int64_t kTaps = 3, kChannels = 5;
  for (const int64_t tokens : {1, 2, 7}) {  // fewer than the taps reach, and more
    const Tensor x = noise({2, tokens, kChannels}, 1).requires_grad_(), dy = noise({2, tokens, kChannels}, 2);
    const Tensor taps = noise({kTaps * kChannels}, 3).requires_grad_();
    const Tensor xd = x.detach().to(at::kDouble).requires_grad_();
    const Tensor td = taps.detach().to(at::kDouble).requires_grad_();
    std::vector<Tensor> rows;
    for (int64_t t = 0; t < tokens; ++t) {
      Tensor row = at::zeros({2, kChannels}, at::kDouble);
      for (int64_t i = 0; i < kTaps && i <= t; ++i) {
        row = row + xd.select(1, t - i) * td.slice(0, i * kChannels, (i + 1) * kChannels);
      }
      rows.push_back(row);
    }
    const Tensor y = mix_in_time(x, taps), yd = at::stack(rows, 1);
    EXPECT_LE(difference(y, yd), 1e-5);
    const auto got = torch::autograd::grad({y}, {x, taps}, {dy}),
               wanted = torch::autograd::grad({yd}, {xd, td}, {dy.to(at::kDouble)});
    EXPECT_LE(difference(got[0], wanted[0]), 1e-5);
    EXPECT_LE(difference(got[1], wanted[1]), 1e-5);
  }
}

// x / rms and silu(gate) * up, written out in double with autograd.
TEST(FusedLayers, EqualTheFormulaAndSoDoTheirGradients) {
  const Tensor x = noise({3, 700, 24}, 1).requires_grad_(), w = noise({24}, 2).requires_grad_();
  const Tensor dy = noise({3, 700, 24}, 3);
  const Tensor xd = x.detach().to(at::kDouble).requires_grad_(), wd = w.detach().to(at::kDouble).requires_grad_();
  const Tensor y = rms_norm(x, w), yd = xd * (xd.pow(2).mean(-1, true) + 1e-5).rsqrt() * wd;
  EXPECT_LE(difference(y, yd), 1e-5);
  const auto got = torch::autograd::grad({y}, {x, w}, {dy}),
             wanted = torch::autograd::grad({yd}, {xd, wd}, {dy.to(at::kDouble)});
  EXPECT_LE(difference(got[0], wanted[0]), 1e-4);
  EXPECT_LE(difference(got[1], wanted[1]), 1e-3);

  const Tensor g = noise({5, 48}, 4).requires_grad_(), gd = g.detach().to(at::kDouble).requires_grad_();
  const auto half = gd.chunk(2, -1);
  const Tensor s = swiglu(g), sd = half[0] * at::sigmoid(half[0]) * half[1];
  EXPECT_LE(difference(s, sd), 1e-5);
  const Tensor ds = noise({5, 24}, 5);
  EXPECT_LE(
      difference(torch::autograd::grad({s}, {g}, {ds})[0], torch::autograd::grad({sd}, {gd}, {ds.to(at::kDouble)})[0]),
      1e-5);

  const RotaryTable table = rotary_table(10, 8, 10000);
  const Tensor r = noise({2, 10, 3, 8}, 6).requires_grad_(), dr = noise({2, 10, 3, 8}, 7);
  const auto parts = r.chunk(2, -1);
  const Tensor cos = table.cos.unsqueeze(1), sin = table.sin.unsqueeze(1);
  const Tensor formula = at::cat({parts[0] * cos - parts[1] * sin, parts[1] * cos + parts[0] * sin}, -1);
  const Tensor rotated = rotate(r, table);
  EXPECT_LE(difference(rotated, formula), 1e-6);
  EXPECT_LE(difference(torch::autograd::grad({rotated}, {r}, {dr})[0], torch::autograd::grad({formula}, {r}, {dr})[0]),
            1e-6);
}

TEST(LearningRate, RisesThenFallsAlongACosine) {
  TrainOptions o;
  o.learning_rate = 1, o.min_learning_rate = 0.1, o.warmup = 10, o.steps = 110;
  EXPECT_DOUBLE_EQ(learning_rate_at(o, 1), 0.1);
  EXPECT_DOUBLE_EQ(learning_rate_at(o, 10), 1);
  EXPECT_NEAR(learning_rate_at(o, 60), 0.55, 1e-12);
  EXPECT_NEAR(learning_rate_at(o, 110), 0.1, 1e-12);
  o.warmup = 0;
  EXPECT_NEAR(learning_rate_at(o, 110), 0.1, 1e-12);
}

TEST(SafeTensors, RoundTrip) {
  const TemporaryFolder folder;
  const std::string path = folder.file("a.safetensors");
  write_safetensors(
      path, {{{"a", noise({3, 4}, 1)}, {"b.c", at::arange(5)}, {"empty", at::empty({0, 2})}, {"one", at::ones({})}},
             {{"key", "value \"quoted\""}}});
  const SafeTensors read = read_safetensors(path);
  EXPECT_EQ(read.metadata.at("key"), "value \"quoted\"");
  EXPECT_TRUE(at::equal(read.at("a", path), noise({3, 4}, 1)));
  EXPECT_TRUE(at::equal(read.at("b.c", path), at::arange(5)));
  EXPECT_EQ(read.at("empty", path).sizes(), (std::vector<int64_t>{0, 2}));
  EXPECT_TRUE(at::equal(read.at("one", path), at::ones({})));
}

TEST(SafeTensors, RefusesDamageByName) {
  const TemporaryFolder folder;
  const auto with_header = [](const std::string& header, const std::string& data) {
    const std::uint64_t length = header.size();
    return std::string(reinterpret_cast<const char*>(&length), 8) + header + data;
  };
  const std::string absurd(8, '\xff');
  for (const std::string& content :
       {std::string(), std::string("short"), absurd + "{}", with_header("not json", ""), with_header("[]", ""),
        with_header(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", "1234"),
        with_header(R"({"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}})", ""),
        with_header(R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", "1234"),
        with_header(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", "1234"),
        with_header(R"({"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}})", "1234"),
        with_header(R"({"a":{}})", "")}) {
    const std::string path = folder.write("bad.safetensors", content);
    EXPECT_NE(message_of([&] { read_safetensors(path); }).find(path), std::string::npos) << content;
  }
}

TEST(Npy, ReadsAndRefusesDamage) {
  const TemporaryFolder folder;
  std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";
  header.resize(118, ' ');
  const float values[] = {1, 2, 3, 4, 5, 6};
  std::string file =
      std::string("\x93NUMPY\x01\x00\x76\x00", 10) + header + std::string(reinterpret_cast<const char*>(values), 24);
  const Tensor read = read_npy(folder.write("a.npy", file));
  EXPECT_TRUE(at::equal(read, at::arange(1, 7).to(at::kFloat).view({2, 3})));
  file.pop_back();
  EXPECT_NE(message_of([&] { read_npy(folder.write("b.npy", file)); }).find("bytes of data"), std::string::npos);
  EXPECT_NE(message_of([&] { read_npy(folder.write("c.npy", "x")); }).find("not a .npy"), std::string::npos);
}

}  // namespace
}  // namespace hsattn::lm
