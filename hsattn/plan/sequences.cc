#include "hsattn/plan/sequences.h"

#include <algorithm>
#include <tuple>

#include "hsattn/base/error.h"

namespace hsattn {
namespace {

void check_offsets(const char* name, std::span<const Index> offsets) {
  check(!offsets.empty(), "packed_sequences: the offsets of ", name, " are empty; they start with 0");
  check(offsets[0] == 0, "packed_sequences: the offsets of ", name, " start with ", offsets[0],
        "; they must start with 0");
  for (std::size_t i = 1; i < offsets.size(); ++i) {
    check(offsets[i] >= offsets[i - 1], "packed_sequences: offset ", i, " of ", name, " is ", offsets[i], ", after ",
          offsets[i - 1], "; offsets must not decrease");
  }
}

void check_within(const char* who, std::size_t sequence, const char* name, Range range, Index tokens) {
  check(range.begin >= 0 && range.begin <= range.end && range.end <= tokens, who, ": sequence ", sequence, " has ",
        name, " [", range.begin, ", ", range.end, "); they must lie within the ", tokens, " that there are");
}

// Indices of the sequences that have tokens on this side, in the order of those.
std::vector<std::size_t> in_order(std::span<const Sequence> sequences, Range Sequence::* side) {
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    if ((sequences[i].*side).size() > 0) order.push_back(i);
  }
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    const auto place = [&](const Sequence& s) { return std::tuple(s.batch, (s.*side).begin); };
    return place(sequences[a]) < place(sequences[b]);
  });
  return order;
}

}  // namespace

std::vector<Sequence> packed_sequences(std::span<const Index> first_queries, std::span<const Index> first_keys) {
  check_offsets("queries", first_queries);
  check_offsets("keys", first_keys);
  check(first_keys.size() == first_queries.size(), "packed_sequences: there are ", first_keys.size(),
        " offsets of keys and ", first_queries.size(), " of queries; there must be as many");
  std::vector<Sequence> sequences;
  for (std::size_t i = 1; i < first_queries.size(); ++i) {
    sequences.push_back({0, {first_queries[i - 1], first_queries[i]}, {first_keys[i - 1], first_keys[i]}});
  }
  return sequences;
}

std::vector<Sequence> padded_sequences(std::span<const Range> real, Index queries, Index keys) {
  check(queries >= 0 && queries <= keys, "padded_sequences: there are ", queries, " queries and ", keys,
        " keys; the queries must be the last of the keys");
  const Index first_query = keys - queries;  // as a key
  const auto as_query = [&](Index key) { return std::max<Index>(0, key - first_query); };
  std::vector<Sequence> sequences;
  for (const Range& r : real) {
    check_within("padded_sequences", sequences.size(), "keys", r, keys);
    sequences.push_back({static_cast<Index>(sequences.size()), {as_query(r.begin), as_query(r.end)}, r});
  }
  return sequences;
}

std::vector<PlanShape> plan_shapes(const PlanOptions& options, DType type, Index kv_heads,
                                   std::span<const Sequence> sequences) {
  std::vector<PlanShape> shapes;
  for (const Sequence& s : sequences) {
    shapes.push_back(plan_shape(options, type, 1, kv_heads, s.queries.size(), s.keys.size()));
  }
  return shapes;
}

Index list_elements(std::span<const PlanShape> shapes) {
  Index sum = 0;
  for (const PlanShape& shape : shapes) sum += shape.list_elements();
  return sum;
}

std::vector<PlanView> plans_of(std::span<const PlanShape> shapes, const std::int32_t* blocks) {
  std::vector<PlanView> plans;
  for (const PlanShape& shape : shapes) {
    plans.emplace_back(shape, blocks);
    if (blocks != nullptr) blocks += shape.list_elements();
  }
  return plans;
}

void check_sequences(const char* who, std::span<const Sequence> sequences, Index batch, Index queries, Index keys) {
  for (std::size_t i = 0; i < sequences.size(); ++i) check_within(who, i, "queries", sequences[i].queries, queries);
  check_keys_of_sequences(who, sequences, batch, keys);
}

void check_keys_of_sequences(const char* who, std::span<const Sequence> sequences, Index batch, Index keys) {
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    const Index element = sequences[i].batch;
    check(element >= 0 && element < batch, who, ": sequence ", i, " is in batch element ", element, "; there are ",
          batch);
    check_within(who, i, "keys", sequences[i].keys, keys);
  }
}

std::vector<BatchRange> tokens_of_none(const char* who, const char* name, std::span<const Sequence> sequences,
                                       Range Sequence::* side, Index batch, Index tokens) {
  std::vector<BatchRange> none;
  const auto add = [&](Index b, Range range) {
    if (range.size() > 0) none.push_back({b, range});
  };
  const std::vector<std::size_t> order = in_order(sequences, side);
  auto next = order.begin();
  for (Index b = 0; b < batch; ++b) {
    Index end = 0;  // of the sequences so far
    for (; next != order.end() && sequences[*next].batch == b; ++next) {
      const Range range = sequences[*next].*side;
      check(range.begin >= end, who, ": sequences ", *next, " and ", next == order.begin() ? 0 : *(next - 1), " share ",
            name, " of batch element ", b, " before token ", end, "; each must belong to one at most");
      add(b, {end, range.begin});
      end = range.end;
    }
    add(b, {end, tokens});
  }
  return none;
}

}  // namespace hsattn
