// A mock of an LLM provider: one thread, epoll, HTTP/1.1 with keep-alive, on the loopback interface.
//
//   upstream PORT [interval_ms]
//
//   POST anything                   a chat completion, always the same
//   ... with "stream": true         "max_tokens" chunks (50 when not said), `interval_ms` apart, the first at
//                                   once; then the usage if "include_usage" was asked for, then [DONE]
//   GET /v1/models                  one model
//   GET /stats                      how many requests and streams came, how many streams were broken off
//
// Compiled, so that what is measured is the gateway in front of it. Understands no JSON: it looks for words.

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <memory>
#include <queue>
#include <unordered_map>
#include <vector>

#include "http1.hpp"

using Clock = std::chrono::steady_clock;

const char* const ANSWER =
    R"({"id":"chatcmpl-mock0000000000000000","object":"chat.completion","created":1700000000,"model":"mock-model",)"
    R"("choices":[{"index":0,"message":{"role":"assistant","content":"I am sorry that the router is down again. )"
    R"(I have opened a ticket with the highest urgency and sent it to the network team, who will call you within )"
    R"(the hour. Until then you can use the second line.","refusal":null},"logprobs":null,"finish_reason":"stop"}],)"
    R"("usage":{"prompt_tokens":24,"completion_tokens":48,"total_tokens":72},"system_fingerprint":"fp_mock"})";
const char* const MODELS =
    R"({"object":"list","data":[{"id":"mock-model","object":"model","created":1700000000,"owned_by":"mock"}]})";
const char* const CHUNK_HEAD =
    R"({"id":"chatcmpl-mock0000000000000000","object":"chat.completion.chunk","created":1700000000,"model":"mock-model",)";
const int DEFAULT_CHUNKS = 50;
const int MAX_CHUNKS = 100000;

struct Connection {
  explicit Connection(int socket, uint64_t number) : fd(socket), id(number) {}
  ~Connection() { close(fd); }

  int fd;
  uint64_t id;
  http1::Parser request{http1::Parser::Role::request};
  std::string out;        // not yet taken by the kernel
  bool waits_to_write = false;
  int chunks_left = -1;   // of the stream that is being sent; -1 when none is
  int chunks = 0;         // of that stream, in all
  bool wants_usage = false;
};

struct Due {
  Clock::time_point at;
  uint64_t id;
  bool operator>(const Due& other) const { return at > other.at; }
};

// What stands behind `"name":` in a JSON text, spaces skipped; null when the name is not there.
const char* value_of(const std::string& json, const char* name) {
  size_t at = json.find(name);
  if (at == json.npos) return nullptr;
  const char* value = json.c_str() + at + std::strlen(name);
  return value + std::strspn(value, " :");
}

bool is_true(const std::string& json, const char* name) {
  const char* value = value_of(json, name);
  return value != nullptr && std::strncmp(value, "true", 4) == 0;
}

class Upstream {
 public:
  Upstream(int listener, int interval_ms) : listener_(listener), interval_(interval_ms) {
    epoll_ = epoll_create1(0);
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = LISTENER;
    epoll_ctl(epoll_, EPOLL_CTL_ADD, listener_, &event);
  }

  void run() {
    std::vector<epoll_event> events(512);
    while (true) {
      int ready = epoll_wait(epoll_, events.data(), static_cast<int>(events.size()), patience_ms());
      for (int i = 0; i < ready; i++) {
        uint64_t id = events[i].data.u64;
        if (id == LISTENER) {
          accept_all();
        } else if (auto found = connections_.find(id); found != connections_.end()) {
          handle(*found->second, events[i].events);
        }
      }
      send_due();
    }
  }

 private:
  static const uint64_t LISTENER = 0;

  void accept_all() {
    int fd;
    while ((fd = accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK)) >= 0) {
      int on = 1;
      setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
      uint64_t id = ++last_id_;
      connections_.emplace(id, std::make_unique<Connection>(fd, id));
      epoll_event event{};
      event.events = EPOLLIN;
      event.data.u64 = id;
      epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event);
    }
  }

  void handle(Connection& connection, uint32_t events) {
    if (events & EPOLLOUT) flush(connection);
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
      char buffer[65536];
      ssize_t size = recv(connection.fd, buffer, sizeof buffer, 0);
      if (size == 0 || (size < 0 && errno != EAGAIN)) {
        drop(connection);
        return;
      }
      if (size > 0) connection.request.feed(buffer, static_cast<size_t>(size));
    }
    serve(connection);
  }

  // Answer what is complete, one request after another; a stream holds up those behind it.
  void serve(Connection& connection) {
    while (connection.request.complete && connection.chunks_left < 0) {
      answer(connection);
      if (connection.chunks_left < 0) connection.request.next();
    }
    flush(connection);
    if (connection.request.failed) drop(connection);
  }

  void answer(Connection& connection) {
    const http1::Parser& request = connection.request;
    if (request.start_line.rfind("GET /stats", 0) == 0) {
      whole(connection, "{\"requests\":" + std::to_string(requests_) + ",\"streams\":" + std::to_string(streams_) +
                            ",\"broken_off\":" + std::to_string(broken_off_) + "}");
    } else if (request.start_line.rfind("GET ", 0) == 0) {
      whole(connection, MODELS);
    } else if (!is_true(request.body, "\"stream\"")) {
      requests_++;
      whole(connection, ANSWER);
    } else {
      requests_++;
      streams_++;
      begin_stream(connection);
    }
  }

  void whole(Connection& connection, const std::string& body) {
    connection.out += "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: " +
                      std::to_string(body.size()) + "\r\n\r\n" + body;
  }

  void begin_stream(Connection& connection) {
    const std::string& body = connection.request.body;
    const char* wanted = value_of(body, "\"max_tokens\"");
    int chunks = wanted == nullptr ? DEFAULT_CHUNKS : std::atoi(wanted);
    connection.chunks = connection.chunks_left = std::clamp(chunks, 1, MAX_CHUNKS);
    connection.wants_usage = is_true(body, "\"include_usage\"");
    connection.out +=
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n"
        "transfer-encoding: chunked\r\n\r\n";
    send_chunk(connection, Clock::now());
  }

  void send_chunk(Connection& connection, Clock::time_point now) {
    bool first = connection.chunks_left == connection.chunks, last = connection.chunks_left == 1;
    std::string delta = first ? R"({"role":"assistant","content":"word "})" : R"({"content":"word "})";
    event(connection, std::string(CHUNK_HEAD) + R"("choices":[{"index":0,"delta":)" + delta +
                          R"(,"finish_reason":)" + (last ? "\"stop\"" : "null") + "}]}");
    if (--connection.chunks_left > 0) {
      due_.push({now + interval_, connection.id});
      return;
    }
    if (connection.wants_usage) {
      event(connection, std::string(CHUNK_HEAD) + R"("choices":[],"usage":{"prompt_tokens":24,"completion_tokens":)" +
                            std::to_string(connection.chunks) + R"(,"total_tokens":)" +
                            std::to_string(24 + connection.chunks) + "}}");
    }
    event(connection, "[DONE]");
    connection.out += "0\r\n\r\n";
    connection.chunks_left = -1;
  }

  void event(Connection& connection, const std::string& data) {
    char size[24];
    std::snprintf(size, sizeof size, "%zx\r\n", data.size() + 8);
    connection.out += size + ("data: " + data) + "\n\n\r\n";
  }

  void send_due() {
    Clock::time_point now = Clock::now();
    while (!due_.empty() && due_.top().at <= now) {
      // From when it was due, not from now: a late chunk must not slow the stream down.
      Due due = due_.top();
      due_.pop();
      auto found = connections_.find(due.id);
      if (found == connections_.end()) continue;
      Connection& connection = *found->second;
      send_chunk(connection, due.at);
      if (connection.chunks_left < 0) connection.request.next();
      serve(connection);
    }
  }

  int patience_ms() const {
    if (due_.empty()) return -1;
    auto left = std::chrono::ceil<std::chrono::milliseconds>(due_.top().at - Clock::now());
    return std::max(0, static_cast<int>(left.count()));
  }

  void flush(Connection& connection) {
    while (!connection.out.empty()) {
      ssize_t sent = send(connection.fd, connection.out.data(), connection.out.size(), MSG_NOSIGNAL);
      if (sent < 0) break;  // full, or gone: then the next read says so
      connection.out.erase(0, static_cast<size_t>(sent));
    }
    bool waits = !connection.out.empty();
    if (waits == connection.waits_to_write) return;
    connection.waits_to_write = waits;
    epoll_event event{};
    event.events = EPOLLIN | (waits ? static_cast<uint32_t>(EPOLLOUT) : 0u);
    event.data.u64 = connection.id;
    epoll_ctl(epoll_, EPOLL_CTL_MOD, connection.fd, &event);
  }

  void drop(Connection& connection) {
    if (connection.chunks_left >= 0) broken_off_++;
    connections_.erase(connection.id);
  }

  int listener_;
  int epoll_;
  std::chrono::milliseconds interval_;
  uint64_t last_id_ = LISTENER;
  std::unordered_map<uint64_t, std::unique_ptr<Connection>> connections_;
  std::priority_queue<Due, std::vector<Due>, std::greater<Due>> due_;
  uint64_t requests_ = 0, streams_ = 0, broken_off_ = 0;
};

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: upstream PORT [interval_ms]\n");
    return 2;
  }
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(std::atoi(argv[1])));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 || listen(listener, 4096) != 0) {
    std::perror("upstream: cannot listen");
    return 1;
  }
  Upstream(listener, argc > 2 ? std::atoi(argv[2]) : 100).run();
}
