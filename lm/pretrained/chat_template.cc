#include "lm/pretrained/chat_template.h"

#include <filesystem>

#include "lm/data/files.h"
#include "lm/options/untrusted_json.h"

namespace hsattn::lm {
namespace {

using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;
constexpr int kDepth = 32;

jinja::Value value_of(const Json& json) {
  if (json.is_boolean()) return json.get<bool>();
  if (json.is_number_integer()) return json.get<std::int64_t>();
  if (json.is_number()) return json.get<double>();
  if (json.is_string()) return json.get<std::string>();
  if (json.is_array()) {
    jinja::List list;
    for (const Json& item : json) list.push_back(value_of(item));
    return list;
  }
  jinja::Object object;
  if (!json.is_object()) return {};
  for (const auto& [name, item] : json.items()) object.members.emplace_back(name, value_of(item));
  return object;
}

// bos_token, eos_token and the like: a text, or an object with the text as `content`.
jinja::Object special_tokens(const Json& config) {
  jinja::Object variables;
  for (const auto& [name, value] : config.items()) {
    const Json& text = value.is_object() && value.contains("content") ? value["content"] : value;
    if (name.ends_with("_token") && text.is_string()) variables.set(name, text.get<std::string>());
  }
  return variables;
}

// The text of tokenizer_config.json; of several templates the one called `default`.
std::string template_in(const Json& config, const std::string& what) {
  const Json found = config.value("chat_template", Json());
  if (found.is_string()) return found.get<std::string>();
  for (const Json& entry : found) {
    if (!entry.is_object() || entry.value("name", Json()) != "default") continue;
    if (entry.value("template", Json()).is_string()) return entry["template"].get<std::string>();
  }
  throw FileError(what + ": no chat_template, and no chat_template.jinja beside it; this model does not chat");
}

}  // namespace

ChatTemplate ChatTemplate::read(const std::string& folder) {
  const std::string path = folder + "/chat_template.jinja", config_path = folder + "/tokenizer_config.json";
  const Json config =
      fs::exists(config_path) ? parse_untrusted_json(read_file(config_path), config_path, kDepth) : Json::object();
  if (!config.is_object()) throw FileError(config_path + ": no JSON object");
  if (fs::exists(path)) return {read_file(path), path, special_tokens(config)};
  return {template_in(config, config_path), config_path + ": chat_template", special_tokens(config)};
}

std::string ChatTemplate::render(const std::vector<ChatMessage>& messages, bool answer_follows) const {
  jinja::List list;
  for (const ChatMessage& message : messages) {
    list.emplace_back(jinja::Object{{{"role", message.role}, {"content", message.content}}, false});
  }
  return render_value(list, answer_follows);
}

std::string ChatTemplate::render_json(std::string_view messages, bool answer_follows) const {
  const nlohmann::ordered_json list = parse_untrusted_json(messages, "messages", kDepth);
  if (!list.is_array()) throw FileError("messages: not a list of {\"role\": .., \"content\": ..}");
  return render_value(value_of(list), answer_follows);
}

std::string ChatTemplate::render_value(jinja::Value messages, bool answer_follows) const {
  jinja::Object variables = variables_;
  variables.set("messages", std::move(messages));
  variables.set("add_generation_prompt", answer_follows);
  variables.set("tools", jinja::Value());
  variables.set("documents", jinja::Value());
  return template_.render(variables);
}

}  // namespace hsattn::lm
