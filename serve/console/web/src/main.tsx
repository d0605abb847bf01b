import { QueryClientProvider } from "@tanstack/react-query";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { Router } from "wouter";
import "./styles.css";
import { queryClient } from "./api";
import { base } from "./base";
import { SessionGate } from "./session";
import { Shell } from "./shell";
import { apply } from "./theme";

apply();
const root = document.getElementById("root");
if (!root) throw new Error("index.html has no #root");
createRoot(root).render(
  <StrictMode>
    <QueryClientProvider client={queryClient}>
      <Router base={base}>
        <SessionGate>
          <Shell />
        </SessionGate>
      </Router>
    </QueryClientProvider>
  </StrictMode>,
);
