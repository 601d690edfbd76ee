#include "commit.h"  // written at each build

#include "lm/train/environment.h"

namespace hsattn::lm {

std::string build_commit() { return HSATTN_COMMIT; }

}  // namespace hsattn::lm
