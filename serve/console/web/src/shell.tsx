/** What every page has around it: navigation, state of the connection, keys, the palette, and the stream of changes. */
import { useQueryClient } from "@tanstack/react-query";
import { useEffect, useRef, useState, useSyncExternalStore } from "react";
import { Link, Redirect, Route, Switch, useLocation, useSearch } from "wouter";
import { when } from "./fmt";
import { useKeys } from "./keys";
import { Live, type LiveState } from "./live";
import { PAGES, ROUTES } from "./routes";
import { useSession, useSignOut } from "./session";
import { setTheme, type Theme, theme } from "./theme";
import { Button, Select } from "./ui/controls";
import { Dialog } from "./ui/dialog";
import { focusPage } from "./ui/focus";
import { Page } from "./ui/page";
import { Palette } from "./ui/palette";
import { Empty, Notice } from "./ui/state";

export function Shell() {
  const client = useQueryClient();
  const [live] = useState(() => new Live(client));
  useEffect(() => live.start(), [live]);
  useEffect(() => {
    // The other pages' code, once this one is drawn.
    const timer = setTimeout(() => void Promise.allSettled(ROUTES.map((each) => each.page.preload())), 1500);
    return () => clearTimeout(timer);
  }, []);
  const state = useSyncExternalStore(live.subscribe, () => live.state);
  const [open, setOpen] = useState<"help" | "palette" | null>(null);
  useKeys(setOpen);
  usePageFocus();
  return (
    <div className="shell">
      <button type="button" className="button skip" onClick={toContent}>
        To the content
      </button>
      <Nav state={state} help={() => setOpen("help")} find={() => setOpen("palette")} />
      <main id="main" tabIndex={-1}>
        <Disconnected state={state} live={live} />
        <Pages />
      </main>
      {open === "help" && <Help close={() => setOpen(null)} />}
      {open === "palette" && <Palette close={() => setOpen(null)} />}
    </div>
  );
}

/** Not a link to `#main`: the document has a base, below which that would be another page. */
function toContent() {
  document.getElementById("main")?.focus();
}

/** What leads to another page goes with the page that it is on. */
function usePageFocus() {
  const [path] = useLocation();
  const at = `${path}?${useSearch()}`;
  const drawn = useRef(at);
  useEffect(() => {
    if (drawn.current === at) return;
    drawn.current = at;
    focusPage();
  }, [at]);
}

function Pages() {
  return (
    <Switch>
      <Route path="/">
        <Redirect to="/overview" replace />
      </Route>
      {ROUTES.map((each) => (
        <Route key={each.path} path={each.path} component={each.page} />
      ))}
      <Route>
        <Page title="No such page">
          <Empty
            title="Nothing lies at this address"
            action={<Link href="/overview">To the overview</Link>}
          />
        </Page>
      </Route>
    </Switch>
  );
}

function Nav({ state, help, find }: { state: LiveState; help: () => void; find: () => void }) {
  const [at] = useLocation();
  const me = useSession();
  const signOut = useSignOut();
  const [chosen, choose] = useState<Theme>(theme());
  return (
    <nav className="nav" aria-label="Pages">
      <p className="brand">Raymill</p>
      <details className="nav-body" open>
        <summary>Menu</summary>
        <ul>
          {PAGES.map((each) => (
            <li key={each.path}>
              <Link href={each.path} aria-current={at.startsWith(each.path) ? "page" : undefined}>
                {each.title} <kbd>g {each.letter}</kbd>
              </Link>
            </li>
          ))}
        </ul>
        <div className="nav-foot">
          <Connection state={state} />
          <p className="who">
            <b>{me.account}</b> {me.role}
          </p>
          <div className="actions">
            <Button look="quiet" onClick={find}>
              Find <kbd>Ctrl K</kbd>
            </Button>
            <Button look="quiet" onClick={help} aria-label="Keys">
              <kbd>?</kbd>
            </Button>
          </div>
          <Select
            aria-label="Colours"
            value={chosen}
            options={[
              ["system", "System colours"],
              ["light", "Light"],
              ["dark", "Dark"],
            ]}
            onChange={(event) => {
              choose(event.target.value as Theme);
              setTheme(event.target.value as Theme);
            }}
          />
          <Button onClick={() => void signOut()}>Sign out</Button>
        </div>
      </details>
    </nav>
  );
}

const WORDS: Record<LiveState, [string, string, string]> = {
  live: ["●", "live", "ok"],
  connecting: ["○", "connecting", "idle"],
  retrying: ["✕", "retrying", "bad"],
  paused: ["‖", "paused", "idle"],
};

function Connection({ state }: { state: LiveState }) {
  const [sign, word, kind] = WORDS[state];
  return (
    <p className={`mark mark-${kind}`} role="status" data-live={state}>
      <span aria-hidden="true">{sign}</span> {word}
    </p>
  );
}

function Disconnected({ state, live }: { state: LiveState; live: Live }) {
  if (state !== "retrying") return null;
  return (
    <Notice kind="warn">
      The service does not answer; trying again. What stands here is as of{" "}
      {when(new Date(live.heardAt).toISOString(), true)}.
    </Notice>
  );
}

function Help({ close }: { close: () => void }) {
  const keys: [string, string][] = [
    ["?", "these keys"],
    ["/", "search or filter the page"],
    ["Ctrl K", "find a page, model or run"],
    ["j k", "next, previous row of a table"],
    ["Enter", "open the row"],
    ["Space", "mark the row"],
    ["Esc", "close"],
    ...PAGES.map((each): [string, string] => [`g ${each.letter}`, each.title]),
  ];
  return (
    <Dialog title="Keys" close={close}>
      <dl className="keys">
        {keys.map(([key, text]) => (
          <div key={key}>
            <dt>
              <kbd>{key}</kbd>
            </dt>
            <dd>{text}</dd>
          </div>
        ))}
      </dl>
      <div className="actions actions-end">
        <Button onClick={close}>Close</Button>
      </div>
    </Dialog>
  );
}
