// HTTP/1.1 messages, read piece by piece: as much as a benchmark on the loopback interface needs.
//
// One parser for both sides. A body is framed by Content-Length, by chunks, or (answers only) by the end of
// the connection. Knows nothing of sockets. Sizes are bytes.

#pragma once

#include <strings.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

namespace http1 {

// Reads one message after another from the bytes of a connection.
class Parser {
 public:
  enum class Role { request, answer };

  explicit Parser(Role role) : role_(role) {}

  std::string start_line;  // "POST /v1/chat/completions HTTP/1.1" or "HTTP/1.1 200 OK"
  std::string body;        // what has arrived of it so far, without its framing
  bool complete = false;   // the whole message is there; `next` starts the following one
  bool failed = false;     // these bytes are no HTTP
  bool keep_alive = true;

  int status() const { return start_line.size() > 11 ? std::atoi(start_line.c_str() + 9) : 0; }

  // Take bytes as they came. Those behind the end of the message are kept for the next one.
  void feed(const char* data, size_t size) {
    pending_.append(data, size);
    advance();
  }

  // The connection ended: an answer without any framing is complete now, any other is broken.
  void end() {
    if (state_ == State::until_close) complete = true;
  }

  // Nothing of another message has arrived, so a closed connection loses nothing.
  bool idle() const { return state_ == State::head && pending_.empty(); }

  void next() {
    start_line.clear();
    body.clear();
    complete = false;
    keep_alive = true;
    state_ = State::head;
    left_ = 0;
    advance();
  }

 private:
  enum class State { head, sized, chunk_size, chunk, chunk_end, trailer, until_close };

  void advance() {
    size_t used = 0;
    while (!complete && !failed && step(used)) {
    }
    pending_.erase(0, used);
  }

  // One step forward; false when more bytes are needed.
  bool step(size_t& used) {
    std::string_view rest = std::string_view(pending_).substr(used);
    switch (state_) {
      case State::head: {
        size_t end = rest.find("\r\n\r\n");
        if (end == rest.npos) return false;
        read_head(rest.substr(0, end + 2));
        used += end + 4;
        return true;
      }
      case State::sized:
      case State::chunk:
      case State::until_close: {
        size_t taken = state_ == State::until_close ? rest.size() : std::min(left_, rest.size());
        body.append(rest.data(), taken);
        used += taken;
        left_ -= state_ == State::until_close ? 0 : taken;
        if (state_ == State::until_close || left_ > 0) return false;
        if (state_ == State::sized) complete = true;
        state_ = state_ == State::chunk ? State::chunk_end : state_;
        return true;
      }
      case State::chunk_size:
      case State::chunk_end:
      case State::trailer: {
        size_t end = rest.find("\r\n");
        if (end == rest.npos) return false;
        used += end + 2;
        read_line(std::string(rest.substr(0, end)));
        return true;
      }
    }
    return false;
  }

  void read_line(const std::string& line) {
    if (state_ == State::chunk_end) {
      failed = !line.empty();
      state_ = State::chunk_size;
    } else if (state_ == State::trailer) {
      complete = line.empty();
    } else {
      char* end = nullptr;
      left_ = std::strtoull(line.c_str(), &end, 16);
      failed = end == line.c_str();
      state_ = left_ == 0 ? State::trailer : State::chunk;
    }
  }

  void read_head(std::string_view head) {
    size_t end = head.find("\r\n");
    start_line = head.substr(0, end);
    failed = start_line.find("HTTP/1.") == std::string::npos;
    bool sized = false, chunked = false;
    for (size_t at = end + 2; at < head.size(); at = end + 2) {
      end = head.find("\r\n", at);
      std::string line(head.substr(at, end - at));
      if (const char* length = value_of(line, "content-length:")) {
        left_ = std::strtoull(length, nullptr, 10);
        sized = true;
      } else if (const char* coding = value_of(line, "transfer-encoding:")) {
        chunked = strcasestr(coding, "chunked") != nullptr;
      } else if (const char* token = value_of(line, "connection:")) {
        keep_alive = strcasestr(token, "close") == nullptr;
      }
    }
    if (chunked) {
      state_ = State::chunk_size;
    } else if (sized || role_ == Role::request) {
      complete = left_ == 0;
      state_ = State::sized;
    } else {
      state_ = State::until_close;
      keep_alive = false;
    }
  }

  // What stands behind a header's name, or null when the line is another header.
  static const char* value_of(const std::string& line, const char* name) {
    size_t length = std::strlen(name);
    return strncasecmp(line.c_str(), name, length) == 0 ? line.c_str() + length : nullptr;
  }

  Role role_;
  State state_ = State::head;
  size_t left_ = 0;
  std::string pending_;
};

}  // namespace http1
