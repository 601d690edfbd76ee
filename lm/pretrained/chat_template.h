// A model's chat template: messages into the text that it was trained to answer. No torch here.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "lm/pretrained/template/template.h"

namespace hsattn::lm {

struct ChatMessage {
  std::string role;  ///< system, user, assistant
  std::string content;
};

class ChatTemplate {
 public:
  /// `variables`: bos_token and the like.
  ChatTemplate(std::string_view text, const std::string& what, jinja::Object variables)
      : template_(text, what), variables_(std::move(variables)) {}
  /// Of a folder: chat_template.jinja, or `chat_template` of tokenizer_config.json, which has the names of special
  /// tokens, too. Throws FileError if there is none; Unsupported, naming it, for what the template needs.
  static ChatTemplate read(const std::string& folder);

  /// The text for these messages; with `answer_follows` up to where the model's answer begins.
  std::string render(const std::vector<ChatMessage>& messages, bool answer_follows) const;
  /// The same of messages as JSON has them, for tests: a list of objects.
  std::string render_json(std::string_view messages, bool answer_follows) const;

 private:
  std::string render_value(jinja::Value messages, bool answer_follows) const;

  jinja::Template template_;
  jinja::Object variables_;
};

}  // namespace hsattn::lm
