#include "lm/pretrained/template/template.h"

#include "lm/data/files.h"
#include "lm/pretrained/template/evaluator.h"
#include "lm/pretrained/template/parser.h"

namespace hsattn::lm::jinja {
namespace {

template <class Body>
auto with_name(const std::string& what, Body body) {
  try {
    return body();
  } catch (const Unsupported& error) {
    throw Unsupported(concat(what, ": ", error.what()));
  } catch (const FileError& error) {
    throw FileError(concat(what, ": ", error.what()));
  }
}

}  // namespace

Template::Template(std::string_view text, const std::string& what)
    : what_(what), block_(with_name(what, [&] { return parse_template(text); })) {}

std::string Template::render(const Object& variables) const {
  return with_name(what_, [&] { return Evaluator(variables).render(block_); });
}

}  // namespace hsattn::lm::jinja
