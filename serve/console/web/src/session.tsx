/** Who is signed in and what they may call. The session itself is a cookie that no script can read. */
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { createContext, type ReactNode, useCallback, useContext, useEffect } from "react";
import { useLocation } from "wouter";
import { ApiError, api, type Route, type Schemas, signedOut } from "./api";
import { SignIn } from "./pages/sign-in";
import { SignedIn } from "./pages/signed-in";
import { RETURN } from "./sso";
import { Failed, Waiting } from "./ui/state";

type Access = Schemas["Access"];

const Session = createContext<{ access: Access; allowed: ReadonlySet<string> } | null>(null);

const KEY = ["session"];

/** Shows its children to who is signed in, else the login, at the same address. */
export function SessionGate({ children }: { children: ReactNode }) {
  const client = useQueryClient();
  const [at] = useLocation();
  const returned = at === RETURN;
  const query = useQuery({
    queryKey: KEY,
    enabled: !returned,
    queryFn: async () => (await api.GET("/api/v1/access")).data as Access,
    retry: (count, error) => !(error instanceof ApiError && error.status === 401) && count < 3,
    refetchInterval: 300_000,
  });
  useEffect(() => {
    const ended = () => void client.resetQueries({ queryKey: KEY });
    signedOut.addEventListener("signedout", ended);
    return () => signedOut.removeEventListener("signedout", ended);
  }, [client]);
  if (returned) return <SignedIn />;
  if (query.error instanceof ApiError && query.error.status === 401) return <SignIn />;
  if (query.data) {
    const value = { access: query.data, allowed: new Set(query.data.allowed) };
    return <Session value={value}>{children}</Session>;
  }
  if (query.error) {
    return (
      <main className="alone">
        <Failed error={query.error} what="the session" retry={() => void query.refetch()} />
      </main>
    );
  }
  return <Waiting />;
}

export function useSession() {
  const session = useContext(Session);
  if (!session) throw new Error("useSession is used inside of SessionGate");
  return session.access;
}

/** Whether the caller's role is let in there: what would be refused is not shown. */
export function useMay(route: Route): boolean {
  const session = useContext(Session);
  return session?.allowed.has(route) ?? false;
}

/** After somebody else may have signed in: nothing that was read stays, and who it is is asked anew. */
export function useForgetSession() {
  const client = useQueryClient();
  return useCallback(async () => {
    client.removeQueries({ predicate: (query) => query.queryKey[0] !== KEY[0] });
    await client.resetQueries({ queryKey: KEY });
  }, [client]);
}

export function useSignIn() {
  const forget = useForgetSession();
  return async (account: string, password: string) => {
    await api.POST("/api/v1/browser/session", { body: { account, password } });
    await forget();
  };
}

export function useSignOut() {
  const forget = useForgetSession();
  return async () => {
    await api.DELETE("/api/v1/browser/session");
    await forget();
  };
}
