#include "hsattn/kernels/cpu/pack.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "hsattn/kernels/pool.h"
#include "hsattn/kernels/quantize.h"

namespace hsattn::cpu {
namespace {

// Step i of a unit is bytes [i kBytes, (i + 1) kBytes) of each of its rows, one after another; steps are `columns`
// tokens apart. `bytes` of a row and `count` rows exist, the rest becomes zeros.
template <Index kBytes>
void transpose_bytes(const std::byte* rows, Index stride, Index count, Index bytes, Index steps, Index columns,
                     std::byte* out) {
  const Index whole = bytes / kBytes;
  if (count < kUnit || whole < steps) {
    for (Index i = 0; i < steps; ++i) std::memset(out + i * columns * kBytes, 0, kUnit * kBytes);
  }
  for (Index i = 0; i < whole; ++i) {
    for (Index j = 0; j < count; ++j)
      std::memcpy(out + (i * columns + j) * kBytes, rows + j * stride + i * kBytes, kBytes);
  }
  const Index rest = bytes - whole * kBytes;
  if (rest == 0) return;
  for (Index j = 0; j < count; ++j) {
    std::memcpy(out + (whole * columns + j) * kBytes, rows + j * stride + whole * kBytes,
                static_cast<std::size_t>(rest));
  }
}

// A unit of `head`, in steps of words: rows of floats, or rows of bfloat16 as they are stored.
void transpose_unit(const PackedHead& head, Index unit, const std::byte* rows, Index stride, Index count, Index bytes,
                    float* out) {
  const Index steps = head.depth / head.step, units = head.columns / kUnit;  // that stand side by side
  auto* to = reinterpret_cast<std::byte*>(out + (unit / units * head.depth * units + unit % units) * kUnit);
  if (head.step == 2) return transpose_bytes<8>(rows, stride, count, bytes, steps, head.columns, to);
  transpose_bytes<4>(rows, stride, count, bytes, steps, head.columns, to);
}

void copy_unit(const float* rows, Index stride, Index count, Index dim, Index padded_dim, float* out) {
  std::memset(out, 0, static_cast<std::size_t>(kUnit * padded_dim) * sizeof(float));
  for (Index j = 0; j < count; ++j) std::copy_n(rows + j * stride, dim, out + j * padded_dim);
}

// The same in pairs of bfloat16: [4, padded dim] pairs of tokens.
void pair_up_tokens(const StoredRows& x, Index first, Index count, Index padded_dim, float* out) {
  std::memset(out, 0, static_cast<std::size_t>(kUnit / 2 * padded_dim) * sizeof(float));
  for (Index j = 0; j < count; j += 2) {
    pair_up_rows(x.row(first + j), j + 1 < count ? x.row(first + j + 1) : nullptr, x.dim, out + j / 2 * padded_dim);
  }
}

// Rounds the keys of a unit, 4 dimensions of each token side by side; see PackedHead::keys_int8.
void round_unit(const float* rows, Index stride, Index count, Index dim, Index padded_dim, std::uint8_t* out,
                float* scales) {
  std::memset(out, 128, static_cast<std::size_t>(kUnit * padded_dim));
  std::fill_n(scales, kUnit, 0.0F);
  std::int8_t row[kMaxDim] = {};
  for (Index j = 0; j < count; ++j) {
    scales[j] = quantize(rows + j * stride, dim, kKeyLevels, row);
    for (Index d = 0; d < padded_dim; d += 4) {
      std::uint32_t four = 0;
      std::memcpy(&four, row + d, sizeof four);
      four ^= 0x80808080U;  // adds 128 to each
      std::memcpy(out + d * kUnit + 4 * j, &four, sizeof four);
    }
  }
}

bool all_finite(const float* rows, Index stride, Index count, Index dim) {
  constexpr std::int32_t kInfinity = 0x7f800000;
  std::int32_t largest = 0;
  for (Index j = 0; j < count; ++j) largest = std::max(largest, largest_magnitude_bits(rows + j * stride, dim));
  return largest < kInfinity;
}

}  // namespace

Index node_tokens(const PackedHead& head, Index block, Index level, Index index) {
  const Index begin = (index << level) * block;
  return std::min(head.keys, begin + (block << level)) - begin;
}

PackedHead allocate_packed_head(Index keys, Index dim, const PackRequest& request) {
  PackedHead head;
  head.keys = keys;
  head.dim = dim;
  head.padded_dim = round_up(dim, kDimAlign);
  head.units = ceil_div(keys, kUnit);
  head.pairs = request.pairs;
  head.tiles = request.tiles;
  head.step = request.tiles ? 1 : request.step;
  if (head.tiles) {
    head.columns = 2 * kUnit;
    head.units = round_up(head.units, Index{4});
  }
  head.depth = round_up(request.pairs ? ceil_div(dim, Index{2}) : dim, head.tiles ? kDimAlign : head.step);
  head.unit_rows = request.pairs ? kUnit / 2 : kUnit;
  const char* what = "attention: packed keys and values";
  head.not_finite = allocate_buffer<std::uint8_t>(head.units, what);
  const Index rows = head.units * kUnit * head.padded_dim;
  if (request.rescore) {
    head.keys_int8 = allocate_buffer<std::uint8_t>(rows, what);
    head.key_scales = allocate_buffer<float>(head.units * kUnit, what);
  }
  if (request.values) {
    head.keys_t = allocate_buffer<float>(head.units * head.depth * kUnit, what);
    head.values = allocate_buffer<float>(head.units * head.unit_rows * head.padded_dim, what);
  }
  if (request.backward) {
    head.values_t = allocate_buffer<float>(head.units * head.depth * kUnit, what);
    head.key_rows = allocate_buffer<float>(head.units * head.unit_rows * head.padded_dim, what);
  }
  if (!request.search && !request.far_field) return head;

  PackedPyramid& p = head.pyramid;
  const Index blocks = ceil_div(keys, request.block);
  p.levels = pyramid_levels(blocks);
  for (int level = 0; level < p.levels; ++level) {
    const Index nodes = ceil_div(blocks, Index{1} << level);
    p.first[level + 1] = p.first[level] + nodes;
    p.first_unit[level + 1] = p.first_unit[level] + ceil_div(nodes, kUnit);
  }
  what = "attention: key and value pyramid";
  p.keys = allocate_buffer<float>(p.rows() * head.padded_dim, what);
  if (request.far_field) p.values = allocate_buffer<float>(p.rows() * head.padded_dim, what);
  if (request.search) {
    p.keys_int8 = allocate_buffer<std::uint8_t>(p.units() * kUnit * head.padded_dim, what);
    p.key_scales = allocate_buffer<float>(p.units() * kUnit, what);
  }
  return head;
}

void pack_units(const StoredRows& k, const StoredRows& v, const PackRequest& request, Index begin, Index end,
                PackedHead& head) {
  const Index dim = head.dim, pd = head.padded_dim;
  float k_space[kUnit * kMaxDim], v_space[kUnit * kMaxDim];
  for (Index unit = begin; unit < end; ++unit) {
    const Index first = unit * kUnit;
    const Index count = std::clamp<Index>(head.keys - first, 0, kUnit);
    const Rows<const float> keys = float_rows(k, first, count, k_space);
    if (request.rescore) {
      round_unit(keys.data, keys.stride, count, dim, pd, head.keys_int8.get() + unit * kUnit * pd,
                 head.key_scales.get() + unit * kUnit);
    }
    head.not_finite[unit] = 0;
    if (!request.values) continue;
    const Rows<const float> values = float_rows(v, first, count, v_space);
    const int keys_flag = all_finite(keys.data, keys.stride, count, dim) ? 0 : 1;
    const int values_flag = all_finite(values.data, values.stride, count, dim) ? 0 : 2;
    head.not_finite[unit] = static_cast<std::uint8_t>(keys_flag | values_flag);
    const auto columns = [&](const StoredRows& stored, const Rows<const float>& rows, const Buffer<float>& to) {
      const bool as_stored = head.pairs;
      const std::byte* from = as_stored ? stored.row(first) : reinterpret_cast<const std::byte*>(rows.data);
      const Index element = size_of(as_stored ? stored.dtype : DType::kFloat32);
      transpose_unit(head, unit, from, (as_stored ? stored.stride : rows.stride) * element, count, dim * element,
                     to.get());
    };
    const auto rows = [&](const StoredRows& stored, const Rows<const float>& rows, const Buffer<float>& to) {
      float* out = to.get() + unit * head.unit_rows * pd;
      if (head.pairs) return pair_up_tokens(stored, first, count, pd, out);
      copy_unit(rows.data, rows.stride, count, dim, pd, out);
    };
    columns(k, keys, head.keys_t);
    rows(v, values, head.values);
    if (request.backward) {
      columns(v, values, head.values_t);
      rows(k, keys, head.key_rows);
    }
  }
}

namespace {

// Pools all rows of a head; half-precision rows are converted first, into memory that lasts as long. Nodes that are
// given are taken as they are.
void pool_stored(const StoredRows& x, const Rows<const float>& given, const PackRequest& request, Index padded_dim,
                 float* out) {
  if (given.data != nullptr) {
    for (Index i = 0; i < given.count; ++i, out += padded_dim) {
      std::copy_n(given.row(i), given.dim, out);
      std::fill(out + given.dim, out + padded_dim, 0.0F);
    }
    return;
  }
  Buffer<float> space;
  if (x.dtype != DType::kFloat32) space = allocate_buffer<float>(x.count * x.dim, "attention: rows to pool");
  pool(request.pooling, float_rows(x, 0, x.count, space.get()), request.block, padded_dim, out);
}

}  // namespace

void build_pyramid(const StoredRows& k, const StoredRows& v, const GivenNodes& given, const PackRequest& request,
                   PackedHead& head) {
  PackedPyramid& p = head.pyramid;
  if (p.levels == 0) return;
  const Index pd = head.padded_dim;
  pool_stored(k, given.keys, request, pd, p.keys.get());
  if (request.far_field) pool_stored(v, given.values, request, pd, p.values.get());
  if (!request.search) return;
  for (int level = 0; level < p.levels; ++level) {
    const Index nodes = p.first[level + 1] - p.first[level];
    for (Index first = 0; first < nodes; first += kUnit) {
      const Index unit = p.first_unit[level] + first / kUnit;
      round_unit(p.keys.get() + (p.first[level] + first) * pd, pd, std::min(kUnit, nodes - first), head.dim, pd,
                 p.keys_int8.get() + unit * kUnit * pd, p.key_scales.get() + unit * kUnit);
    }
  }
}

}  // namespace hsattn::cpu
