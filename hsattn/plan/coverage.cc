#include <algorithm>
#include <vector>

#include "hsattn/base/error.h"
#include "hsattn/plan/plan.h"

namespace hsattn {
namespace {

// Tokens [begin, end) that a position attends, and what as: for the message.
struct Piece {
  Range tokens;
  const char* kind = "";
};

std::vector<Piece> pieces_of(const PlanShape& shape, Index position, std::span<const std::int32_t> list) {
  std::vector<Piece> pieces;
  if (shape.near(position).size() > 0) pieces.push_back({shape.near(position), "near run"});
  for (const Index b : list) {
    pieces.push_back({{b * shape.block, std::min((b + 1) * shape.block, shape.keys)}, "listed block"});
  }
  std::vector<FarNode> far;
  far_field_of(shape, position, list, far);
  for (const FarNode& node : far) {
    const Index begin = (node.index << node.level) * shape.block;
    pieces.push_back({{begin, begin + node.tokens}, "far node"});
  }
  std::sort(pieces.begin(), pieces.end(),
            [](const Piece& a, const Piece& b) { return a.tokens.begin < b.tokens.begin; });
  return pieces;
}

// Empty, or what is wrong with one position.
std::string fault_of(const PlanShape& shape, Index position, std::span<const std::int32_t> list) {
  const Index allowed = shape.causal ? std::clamp<Index>(position + 1, 0, shape.keys) : shape.keys;
  // Everything must be seen by a position with far field, and by one without lists (its near run is all it may see).
  const bool everything = shape.dense(position) || (shape.far_field && shape.slots() > 0);
  Index covered = 0;
  for (const Piece& piece : pieces_of(shape, position, list)) {
    const Range t = piece.tokens;
    if (t.begin < 0 || t.end > allowed || t.size() <= 0) {
      return concat(piece.kind, " [", t.begin, ", ", t.end, ") lies outside the tokens [0, ", allowed,
                    ") that it may see");
    }
    if (t.begin < covered) return concat("token ", t.begin, " is seen twice, the second time in a ", piece.kind);
    if (everything && t.begin > covered) return concat("tokens [", covered, ", ", t.begin, ") are not seen");
    covered = t.end;
  }
  if (everything && covered < allowed) return concat("tokens [", covered, ", ", allowed, ") are not seen");
  return "";
}

}  // namespace

std::string covers_each_token_once(const PlanView& plan) {
  const PlanShape& s = plan.shape;
  for (Index b = 0; b < s.batch; ++b) {
    for (Index h = 0; h < s.kv_heads; ++h) {
      for (Index i = 0; i < s.queries; ++i) {
        const std::string fault = fault_of(s, s.position(i), plan.list(b, h, i));
        if (!fault.empty()) return concat("batch ", b, ", kv head ", h, ", query ", i, ": ", fault);
      }
    }
  }
  return "";
}

}  // namespace hsattn
