import { QueryClient } from "@tanstack/react-query";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { type Change, concerns, Live, shows } from "./live";

class FakeSource extends EventTarget {
  static made: FakeSource[] = [];
  onerror: (() => void) | null = null;
  closed = false;
  constructor(readonly url: string) {
    super();
    FakeSource.made.push(this);
  }
  close() {
    this.closed = true;
  }
  says(change: Change) {
    this.dispatchEvent(new MessageEvent("change", { data: JSON.stringify(change), lastEventId: change.id }));
  }
}

beforeEach(() => {
  FakeSource.made = [];
  vi.useFakeTimers();
  vi.stubGlobal("EventSource", FakeSource);
});
afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

const job = (kinds: string[]): Change => ({ id: "1-2", topic: "job", key: "j1", pipeline_id: "p1", kinds });

test("a topic rings for the paths that show it", () => {
  expect(shows("/api/v1/jobs", "job")).toBe(true);
  expect(shows("/code/v1/submissions", "job")).toBe(true);
  expect(shows("/api/v1/providers/{name}", "provider")).toBe(true);
  expect(shows("/api/v1/policies", "policy")).toBe(true);
  expect(shows("/api/v1/audit", "provider")).toBe(true);
  expect(shows("/api/v1/audit", "job")).toBe(false);
  expect(shows("/api/v1/prices", "promotion")).toBe(false);
});

test("a step rings at once for its own run, later for lists, and not for other runs", () => {
  const run = (id: string) => ["get", "/api/v1/runs/{run_id}/points", { params: { path: { run_id: id } } }];
  expect(concerns(run("j1"), job(["step"]))).toBe("now");
  expect(concerns(run("j2"), job(["step"]))).toBe("no");
  expect(concerns(["get", "/api/v1/jobs"], job(["step"]))).toBe("later");
  expect(concerns(["get", "/api/v1/jobs"], job(["state"]))).toBe("now");
});

test("a stream that fails is opened again after what was heard last, and then all is read again", () => {
  const queries = new QueryClient();
  const read = vi.spyOn(queries, "invalidateQueries").mockResolvedValue();
  const live = new Live(queries);
  const stop = live.start();
  const first = FakeSource.made[0];
  first?.dispatchEvent(new Event("open"));
  expect(live.state).toBe("live");
  first?.says(job(["state"]));
  vi.advanceTimersByTime(100);
  expect(read).toHaveBeenCalledTimes(1);
  first?.onerror?.();
  expect([live.state, first?.closed]).toEqual(["retrying", true]);
  vi.advanceTimersByTime(1_000);
  const second = FakeSource.made[1];
  expect(second?.url).toContain("/api/v1/events?since=1-2");
  second?.dispatchEvent(new Event("open"));
  expect(live.state).toBe("live");
  expect(read).toHaveBeenLastCalledWith();
  stop();
  expect([live.state, second?.closed]).toEqual(["paused", true]);
});
