/** Submitted code and what was found in it. */
import { Page } from "../ui/page";
import { Empty } from "../ui/state";

export default function Reviews() {
  return (
    <Page title="Code review">
      <Empty title="No submission yet" />
    </Page>
  );
}
