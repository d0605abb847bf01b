// A load generator: one thread, epoll, HTTP/1.1 with keep-alive. Sends one POST again and again.
//
//   load URL --connections N (--seconds S [--warmup S] | --requests N)
//            [--body TEXT] [--header "name: value"]... [--stream]
//
// Closed loop: each connection sends its next request when it has the whole answer to the last one. What ends
// during the warm-up, or after the last second, is not measured; but no request is broken off: at the end
// each one's answer is waited for, so that `in_all` says how many the server has answered.
//
// Prints one JSON object. Times are microseconds but for `seconds`. With --stream an answer is good only when
// it ends with [DONE] and holds no error event. URL is http://ADDRESS:PORT/PATH with an IPv4 address.

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <memory>
#include <vector>

#include "http1.hpp"

using Clock = std::chrono::steady_clock;

const double SILENCE_S = 60;  // when nothing at all has come for so long, what is under way counts as lost

struct Options {
  sockaddr_in address{};
  std::string request;
  int connections = 1;
  double seconds = 0, warmup_s = 0;
  long requests = 0;  // 0: as many as fit into the seconds
  bool stream = false;
};

struct Connection {
  int fd = -1;
  http1::Parser answer{http1::Parser::Role::answer};
  size_t sent = 0;        // bytes of the request
  bool busy = false;      // a request is on its way
  bool reused = false;    // the connection has answered before
  Clock::time_point began, first_data;
  bool has_data = false;  // a stream's first event is there
};

struct Tally {
  long ok = 0, bad_status = 0, transport = 0, broken = 0;
  long errors() const { return bad_status + transport + broken; }
};

long micros(Clock::duration time) { return std::chrono::duration_cast<std::chrono::microseconds>(time).count(); }

// A JSON string; what is not printable ASCII becomes a question mark.
std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c < ' ' || c > '~' ? '?' : c;
  }
  return out + "\"";
}

std::string percentiles(std::vector<long>& times, std::initializer_list<int> wanted) {
  if (times.empty()) return "null";
  std::sort(times.begin(), times.end());
  std::string out = "{";
  for (int percent : wanted) {
    size_t rank = std::min(times.size() - 1, times.size() * percent / 100);
    out += "\"p" + std::to_string(percent) + "\":" + std::to_string(times[rank]) + ",";
  }
  return out + "\"max\":" + std::to_string(times.back()) + "}";
}

class Load {
 public:
  explicit Load(const Options& options) : options_(options), connections_(options.connections) {
    epoll_ = epoll_create1(0);
  }

  void run() {
    start_ = heard_ = Clock::now();
    from_ = start_ + seconds(options_.warmup_s);
    until_ = options_.requests ? Clock::time_point::max() : from_ + seconds(options_.seconds);
    for (Connection& connection : connections_) begin(connection);
    std::vector<epoll_event> events(1024);
    while (busy_ > 0 && Clock::now() < heard_ + seconds(SILENCE_S)) {
      int ready = epoll_wait(epoll_, events.data(), static_cast<int>(events.size()), 100);
      for (int i = 0; i < ready; i++) handle(connections_[events[i].data.u64], events[i].events);
    }
    in_all_.transport += busy_;
  }

  void print() {
    double took_s = options_.requests ? micros(last_ - start_) / 1e6 : options_.seconds;
    std::printf("{\"connections\":%d,\"seconds\":%.3f,\"requests\":%ld,\"errors\":%ld,\"requests_per_s\":%.1f,",
                options_.connections, took_s, measured_.ok + measured_.errors(), measured_.errors(),
                took_s > 0 ? measured_.ok / took_s : 0.0);
    std::printf("\"latency_us\":%s,", percentiles(latencies_, {50, 90, 99}).c_str());
    std::printf("\"in_all\":{\"ok\":%ld,\"bad_status\":%ld,\"transport\":%ld,\"broken_streams\":%ld},", in_all_.ok,
                in_all_.bad_status, in_all_.transport, in_all_.broken);
    if (options_.stream) {
      std::printf("\"events\":%ld,\"first_data_us\":%s,", events_, percentiles(firsts_, {50, 90, 99}).c_str());
    }
    std::printf("\"first_error\":%s}\n", first_error_.empty() ? "null" : quoted(first_error_).c_str());
  }

 private:
  static Clock::duration seconds(double s) {
    return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(s));
  }

  bool more() const { return options_.requests ? begun_ < options_.requests : Clock::now() < until_; }

  // Send the next request, on a new connection when there is none.
  void begin(Connection& connection) {
    if (!more()) return;
    begun_++;
    busy_++;
    connection.busy = true;
    connection.began = Clock::now();
    send_again(connection);
  }

  void send_again(Connection& connection) {
    connection.sent = 0;
    connection.has_data = false;
    if (connection.fd < 0 && !open(connection)) {
      finish(connection, &Tally::transport, std::string("cannot connect: ") + std::strerror(errno));
    } else {
      write(connection);
    }
  }

  bool open(Connection& connection) {
    connection.fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    connection.answer = http1::Parser(http1::Parser::Role::answer);
    connection.reused = false;
    int on = 1;
    setsockopt(connection.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    auto address = reinterpret_cast<const sockaddr*>(&options_.address);
    if (connect(connection.fd, address, sizeof options_.address) != 0 && errno != EINPROGRESS) {
      int reason = errno;
      shut(connection);
      errno = reason;
      return false;
    }
    watch(connection, EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT);
    return true;
  }

  void shut(Connection& connection) {
    if (connection.fd >= 0) close(connection.fd);
    connection.fd = -1;
  }

  void watch(Connection& connection, int operation, uint32_t wanted) {
    epoll_event event{};
    event.events = wanted;
    event.data.u64 = static_cast<uint64_t>(&connection - connections_.data());
    epoll_ctl(epoll_, operation, connection.fd, &event);
  }

  void write(Connection& connection) {
    const std::string& request = options_.request;
    ssize_t size =
        send(connection.fd, request.data() + connection.sent, request.size() - connection.sent, MSG_NOSIGNAL);
    if (size > 0) connection.sent += static_cast<size_t>(size);
    // Only a new connection, or a request that does not fit, waits to write.
    bool waits = connection.sent < request.size();
    if (waits || !connection.reused) watch(connection, EPOLL_CTL_MOD, EPOLLIN | (waits ? EPOLLOUT + 0u : 0u));
  }

  void handle(Connection& connection, uint32_t events) {
    if (connection.fd < 0) return;
    if ((events & EPOLLOUT) && connection.busy && connection.sent < options_.request.size()) write(connection);
    if (!(events & (EPOLLIN | EPOLLHUP | EPOLLERR))) return;
    char buffer[65536];
    ssize_t size = recv(connection.fd, buffer, sizeof buffer, 0);
    if (size < 0 && errno == EAGAIN) return;
    if (size <= 0) {
      closed(connection, size < 0 ? errno : 0);
      return;
    }
    heard_ = Clock::now();
    connection.answer.feed(buffer, static_cast<size_t>(size));
    if (options_.stream && !connection.has_data && connection.answer.body.find("data:") != std::string::npos) {
      connection.has_data = true;
      connection.first_data = heard_;
    }
    if (connection.answer.failed) {
      shut(connection);
      finish(connection, &Tally::transport, "the answer is no HTTP");
    } else if (connection.answer.complete && connection.busy) {
      answered(connection);
    }
  }

  void closed(Connection& connection, int reason) {
    connection.answer.end();
    bool complete = connection.answer.complete, between = connection.reused && connection.answer.idle();
    shut(connection);
    if (!connection.busy) return;
    if (complete) {
      answered(connection);
    } else if (between) {
      // The server closed an idle connection while the request was on its way: what any client does is try again.
      send_again(connection);
    } else {
      finish(connection, &Tally::transport,
             std::string("the connection ended early: ") + (reason ? std::strerror(reason) : "closed"));
    }
  }

  void answered(Connection& connection) {
    http1::Parser& answer = connection.answer;
    std::string text = answer.start_line + " " + answer.body.substr(0, 300);
    bool ok = answer.status() == 200;
    bool whole = !options_.stream || check_stream(answer.body);
    bool keep = answer.keep_alive && connection.fd >= 0;
    answer.next();
    connection.reused = true;
    if (!keep) shut(connection);
    finish(connection, !ok ? &Tally::bad_status : !whole ? &Tally::broken : &Tally::ok, text);
  }

  // Whether a stream ends as it should. Counts its events, [DONE] included.
  bool check_stream(const std::string& body) {
    for (size_t at = body.find("data:"); at != body.npos; at = body.find("\ndata:", at + 1)) events_++;
    return body.find("data: [DONE]") != body.npos && body.find("data: {\"error\"") == body.npos;
  }

  void finish(Connection& connection, long Tally::*kind, const std::string& text) {
    Clock::time_point now = Clock::now();
    last_ = now;
    connection.busy = false;
    busy_--;
    in_all_.*kind += 1;
    if (now >= from_ && now < until_) {
      measured_.*kind += 1;
      if (kind == &Tally::ok) {
        latencies_.push_back(micros(now - connection.began));
        if (options_.stream) firsts_.push_back(micros(connection.first_data - connection.began));
      }
    }
    if (kind != &Tally::ok && first_error_.empty()) first_error_ = text;
    if (kind == &Tally::transport) usleep(1000);  // a server that is away must not be asked in a hot loop
    begin(connection);
  }

  Options options_;
  std::vector<Connection> connections_;
  int epoll_;
  long begun_ = 0, busy_ = 0, events_ = 0;
  Clock::time_point start_, from_, until_, last_, heard_;
  Tally measured_, in_all_;
  std::vector<long> latencies_, firsts_;
  std::string first_error_;
};

int usage(const char* problem) {
  std::fprintf(stderr,
               "load: %s\nusage: load http://ADDRESS:PORT/PATH --connections N (--seconds S [--warmup S] | --requests N)"
               " [--body TEXT] [--header TEXT]... [--stream]\n",
               problem);
  return 2;
}

int main(int argc, char** argv) {
  Options options;
  char host[64] = "", path[1024] = "/";
  int port = 0;
  if (argc < 2 || std::sscanf(argv[1], "http://%63[0-9.]:%d%1023s", host, &port, path) < 2) return usage("no URL");
  std::string headers, body;
  for (int i = 2; i < argc; i++) {
    std::string name = argv[i];
    if (name == "--stream") {
      options.stream = true;
      continue;
    }
    if (++i == argc) return usage("the last option has no value");
    std::string value = argv[i];
    if (name == "--connections") options.connections = std::atoi(value.c_str());
    else if (name == "--seconds") options.seconds = std::atof(value.c_str());
    else if (name == "--warmup") options.warmup_s = std::atof(value.c_str());
    else if (name == "--requests") options.requests = std::atol(value.c_str());
    else if (name == "--body") body = value;
    else if (name == "--header") headers += value + "\r\n";
    else return usage(("unknown option " + name).c_str());
  }
  if (options.connections < 1) return usage("--connections must be at least 1");
  if ((options.seconds > 0) == (options.requests > 0)) return usage("give either --seconds or --requests");
  options.address.sin_family = AF_INET;
  options.address.sin_port = htons(static_cast<uint16_t>(port));
  if (inet_pton(AF_INET, host, &options.address.sin_addr) != 1) return usage("the address is no IPv4 address");
  options.request = std::string("POST ") + path + " HTTP/1.1\r\nhost: " + host + ":" + std::to_string(port) +
                    "\r\ncontent-type: application/json\r\n" + headers +
                    "content-length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
  Load load(options);
  load.run();
  load.print();
}
