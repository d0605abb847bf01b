/** The twelve pages and what hangs below them: the navigation, the keys, the palette and the tests read this list. */
import type { ComponentType } from "react";
import { later } from "./later";

export type PageRoute = {
  /** Below `/console`. */
  path: string;
  title: string;
  /** After `g`. Only pages of the navigation have one. */
  letter?: string;
  page: ComponentType & { preload: () => Promise<void> };
};

export const PAGES: readonly PageRoute[] = [
  { path: "/overview", title: "Overview", letter: "o", page: later(() => import("./pages/overview")) },
  { path: "/jobs", title: "Jobs and runs", letter: "j", page: later(() => import("./pages/jobs")) },
  { path: "/new", title: "New run", letter: "n", page: later(() => import("./pages/new-run")) },
  { path: "/data", title: "Data sets", letter: "d", page: later(() => import("./pages/data")) },
  { path: "/registry", title: "Registry", letter: "r", page: later(() => import("./pages/registry")) },
  { path: "/promotions", title: "Promotions", letter: "p", page: later(() => import("./pages/promotions")) },
  { path: "/evals", title: "Evaluations", letter: "e", page: later(() => import("./pages/evaluations")) },
  { path: "/gateway", title: "Gateway", letter: "g", page: later(() => import("./pages/gateway")) },
  { path: "/compare", title: "Compare", letter: "c", page: later(() => import("./pages/compare")) },
  { path: "/reviews", title: "Code review", letter: "v", page: later(() => import("./pages/reviews")) },
  { path: "/ops", title: "Operations", letter: "x", page: later(() => import("./pages/operations")) },
  { path: "/people", title: "People", letter: "u", page: later(() => import("./pages/people")) },
];

/** Pages that others lead to: `/runs/:id` and the like. */
export const BELOW: readonly PageRoute[] = [
  { path: "/jobs/:id", title: "Job", page: later(() => import("./pages/job")) },
  { path: "/runs/compare", title: "Compare runs", page: later(() => import("./pages/compare-runs")) },
  { path: "/data/:name", title: "Data set", page: later(() => import("./pages/data-set")) },
  { path: "/registry/:name", title: "Model", page: later(() => import("./pages/model")) },
  {
    path: "/registry/:name/:number",
    title: "Version of a model",
    page: later(() => import("./pages/model-version")),
  },
  { path: "/runs/:id", title: "Run", page: later(() => import("./pages/run")) },
];

export const ROUTES = [...PAGES, ...BELOW];
