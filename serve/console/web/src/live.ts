/**
 * What has changed, from one event stream for the whole tab. An event is a doorbell: the queries that show its topic
 * are read again. So nothing is missed that the API knows, and after a gap everything on screen is read again.
 *
 * EventSource gives up for ever on a 503, so it is opened anew here, with `since` and a pause that grows. It is closed
 * while the tab is hidden: browsers open six connections to a host.
 */
import type { QueryClient } from "@tanstack/react-query";
import type { Schemas } from "./api";
import { apiRoot } from "./base";

export type Change = Schemas["Change"];
export type LiveState = "connecting" | "live" | "retrying" | "paused";
type Path = string;

/** Which paths show a topic. A topic that is not here is shown by paths that begin with its name in the plural. */
export const SHOWN_BY: Record<string, Path[]> = {
  job: ["jobs", "pipelines", "runs", "searches", "queues", "status", "evaluations", "code"],
  pipeline: ["jobs", "pipelines", "runs"],
  queue: ["queues", "jobs"],
  deployment: ["deployments", "status", "llms"],
  promotion: ["promotions", "llms", "status"],
  alias: ["llms", "promotions", "deployments"],
  llm: ["llms", "promotions", "deployments"],
  version: ["llms", "promotions"],
  environment: ["environments", "promotions"],
  dataset: ["datasets"],
  upload: ["datasets", "uploads"],
  provider: ["providers", "prices"],
  price: ["prices"],
  route: ["routes"],
  preset: ["presets"],
  account: ["accounts", "keys", "teams", "access"],
  session: ["sessions"],
  key: ["keys"],
  team: ["teams", "accounts"],
  budget: ["budgets", "usage"],
  policy: ["policies", "promotions"],
  drift: ["drift"],
  code_step: ["code"],
  code_experiment: ["code"],
};
/** Every audited change is shown by the log itself. */
const ALWAYS = ["audit"];
const PAUSES_MS = [250, 500, 1000, 2000, 4000];
const GATHER_MS = 60;
const LISTS_MS = 1000;

export function shows(path: Path, topic: string): boolean {
  const name =
    path.replace(/^\/(api|code)\/v1\//, (_, room) => (room === "code" ? "code/" : "")).split("/")[0] ?? "";
  if (topic === "all") return true;
  const names = SHOWN_BY[topic] ?? [topic, `${topic}s`, `${topic.replace(/y$/, "ie")}s`];
  return names.includes(name) || (topic !== "job" && ALWAYS.includes(name));
}

/** A step of a run rings for those who show that run at once, and for lists once a second at most. */
export function concerns(key: readonly unknown[], change: Change): "now" | "later" | "no" {
  const path = typeof key[1] === "string" ? key[1] : "";
  if (!shows(path, change.topic)) return "no";
  // A log of some kinds of objects alone shows the others' changes nowhere.
  const asked = JSON.stringify(key[2] ?? {});
  const kinds = /"kinds":"([^"]*)"/.exec(asked)?.[1];
  if (kinds && change.topic !== "all" && !kinds.split(",").includes(change.topic)) return "no";
  if (change.topic !== "job" || !change.key || change.kinds?.includes("state")) return "now";
  const named = [change.key, change.pipeline_id].some((id) => id && asked.includes(id));
  return named ? "now" : path.includes("{") ? "no" : "later";
}

type Listener = (state: LiveState) => void;

export class Live {
  state: LiveState = "connecting";
  /** Milliseconds since 1970 at which the service was last heard. */
  heardAt = Date.now();
  private source: EventSource | null = null;
  private since: string | null = null;
  private tries = 0;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private gathered: Change[] = [];
  private gathering: ReturnType<typeof setTimeout> | undefined;
  private listsAt = 0;
  private listeners = new Set<Listener>();
  private readonly onVisible = () => (document.hidden ? this.pause() : this.open());

  constructor(private readonly queries: QueryClient) {}

  start(): () => void {
    document.addEventListener("visibilitychange", this.onVisible);
    this.onVisible();
    return () => {
      document.removeEventListener("visibilitychange", this.onVisible);
      this.pause();
    };
  }

  subscribe = (listener: Listener): (() => void) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };

  private set(state: LiveState) {
    if (state === this.state) return;
    this.state = state;
    for (const each of this.listeners) each(state);
  }

  private pause() {
    clearTimeout(this.timer);
    this.source?.close();
    this.source = null;
    this.set("paused");
  }

  private open() {
    clearTimeout(this.timer);
    this.source?.close();
    if (this.state !== "retrying") this.set("connecting");
    const again = this.since ? `?since=${encodeURIComponent(this.since)}` : "";
    const source = new EventSource(`${apiRoot}/api/v1/events${again}`, { withCredentials: true });
    this.source = source;
    source.addEventListener("open", () => {
      const gap = this.since !== null;
      this.tries = 0;
      this.heardAt = Date.now();
      this.set("live");
      if (gap) void this.queries.invalidateQueries();
    });
    source.addEventListener("change", (event) => {
      this.heardAt = Date.now();
      this.since = event.lastEventId;
      this.gather(JSON.parse(event.data) as Change);
    });
    source.addEventListener("begin", (event) => {
      this.since = event.lastEventId;
    });
    source.onerror = () => {
      if (this.source !== source) return;
      source.close();
      this.source = null;
      this.set("retrying");
      const pause = PAUSES_MS[Math.min(this.tries, PAUSES_MS.length - 1)] ?? 4000;
      this.tries += 1;
      this.timer = setTimeout(() => this.open(), pause * (0.75 + Math.random() / 2));
    };
  }

  private gather(change: Change) {
    this.gathered.push(change);
    this.gathering ??= setTimeout(() => this.flush(), GATHER_MS);
  }

  private flush() {
    this.gathering = undefined;
    const changes = this.gathered;
    this.gathered = [];
    const lists = Date.now() - this.listsAt >= LISTS_MS;
    const later: Change[] = [];
    void this.queries.invalidateQueries({
      predicate: (query) => {
        for (const change of changes) {
          const when = concerns(query.queryKey, change);
          if (when === "now" || (when === "later" && lists)) return true;
          if (when === "later") later.push(change);
        }
        return false;
      },
    });
    if (lists) this.listsAt = Date.now();
    if (later.length > 0) {
      this.gathered.push(...new Set(later));
      this.gathering ??= setTimeout(() => this.flush(), LISTS_MS);
    }
  }
}
