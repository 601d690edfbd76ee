#include "lm/eval/bench_tensors.h"

#include <charconv>
#include <cmath>

#include "lm/data/files.h"
#include "lm/model/baselines.h"

namespace hsattn::lm {
namespace {

using at::Tensor;

constexpr double kCorrelation = 0.99;  // of neighbouring queries; unions of lists are then about those of real models
constexpr double kPeakedness = 2;      // queries are scaled so that attention is about as peaked as in trained heads

// Along the tokens: x_t = rho x_{t-1} + sqrt(1 - rho^2) noise_t.
void correlate(Tensor& x) {
  const Index tokens = x.size(2), dim = x.size(3);
  auto* data = x.mutable_data_ptr<float>();
  const auto keep = static_cast<float>(kCorrelation), add = std::sqrt(1 - keep * keep);
  for (Index head = 0; head < x.size(0) * x.size(1); ++head) {
    float* rows = data + head * tokens * dim;
    for (Index i = dim; i < tokens * dim; ++i) rows[i] = keep * rows[i - dim] + add * rows[i];
  }
}

// The text of `key` in a .npy header, from its colon on.
std::string_view header_value(std::string_view header, std::string_view key) {
  const std::size_t at = header.find(key);
  return at == std::string_view::npos ? std::string_view() : header.substr(at + key.size());
}

std::vector<int64_t> parse_shape(std::string_view text) {
  std::vector<int64_t> shape;
  const std::size_t open = text.find('('), close = text.find(')');
  if (open == std::string_view::npos || close == std::string_view::npos) return shape;
  for (std::size_t i = open + 1; i < close;) {
    int64_t size = 0;
    const auto [end, error] = std::from_chars(text.data() + i, text.data() + close, size);
    if (error == std::errc()) shape.push_back(size);
    i = std::max(i + 1, static_cast<std::size_t>(end - text.data()));
  }
  return shape;
}

Tensor recorded(const std::string& path, Index length) {
  const Tensor all = read_npy(path);
  if (all.dim() != 3 || all.size(1) < length) {
    throw FileError(
        concat(path, ": shape ", all.sizes(), "; [heads, tokens, dim] with at least ", length, " tokens is right"));
  }
  return all.slice(1, 0, length).unsqueeze(0).contiguous();
}

}  // namespace

Tensor read_npy(const std::string& path) {
  const std::string file = read_file(path);
  const auto byte = [&](std::size_t i) { return static_cast<std::size_t>(static_cast<unsigned char>(file[i])); };
  if (file.size() < 10 || !file.starts_with("\x93NUMPY\x01")) throw FileError(path + ": not a .npy file of version 1");
  const std::size_t start = 10 + (byte(8) | byte(9) << 8);
  if (start > file.size()) throw FileError(path + ": the header is cut off");
  const std::string_view header = std::string_view(file).substr(10, start - 10);
  const std::string_view type = header_value(header, "'descr':");
  const auto is = [&](std::string_view name) { return type.find(name) < 3; };
  const at::ScalarType kind = is("<f2") ? at::kHalf : is("<f4") ? at::kFloat : is("<f8") ? at::kDouble : at::kByte;
  if (kind == at::kByte || header_value(header, "'fortran_order':").find("False") > 2) {
    throw FileError(path + ": float16, float32 or float64 in C order is right");
  }
  const std::vector<int64_t> shape = parse_shape(header_value(header, "'shape':"));
  std::size_t bytes = c10::elementSize(kind);
  for (const int64_t size : shape) {
    if (size <= 0 || bytes > file.size() / static_cast<std::size_t>(size)) throw FileError(path + ": impossible shape");
    bytes *= static_cast<std::size_t>(size);
  }
  if (file.size() - start != bytes)
    throw FileError(concat(path, ": ", file.size() - start, " bytes of data; the shape needs ", bytes));
  Tensor array = at::empty(shape, kind);
  std::memcpy(array.mutable_data_ptr(), file.data() + start, bytes);
  return array.to(at::kFloat);
}

BenchTensors bench_tensors(const BenchCase& c) {
  at::Generator generator = at::detail::createCPUGenerator(static_cast<uint64_t>(c.seed));
  const auto noise = [&](Index heads, Index dim) {
    return at::empty({c.batch, heads, c.length, dim}, at::kFloat).normal_(0, 1, generator);
  };
  BenchTensors t;
  if (c.queries == "correlated" || c.queries == "random") {
    t = {noise(c.heads, c.dim), noise(c.kv_heads, c.dim), noise(c.kv_heads, c.dim), Tensor(), Tensor()};
    if (c.queries == "correlated") correlate(t.q);
    t.q.mul_(kPeakedness);
  } else {
    const std::string stem = c.queries.substr(0, c.queries.size() - std::string_view("q.npy").size());
    t = {recorded(c.queries, c.length), recorded(stem + "k.npy", c.length), recorded(stem + "v.npy", c.length),
         Tensor(), Tensor()};
  }
  if (c.backward) t.dout = noise(t.q.size(1), t.q.size(3)).slice(0, 0, t.q.size(0)).contiguous();
  for (Tensor* x : {&t.q, &t.k, &t.v, &t.dout}) {
    if (c.bf16 && x->defined()) *x = x->to(at::kBFloat16);
  }
  if (c.attention.attention == "performer") t.features = performer_features(c.attention, 0, t.q.size(3));
  return t;
}

}  // namespace hsattn::lm
