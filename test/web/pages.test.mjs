// What a browser does with the pages of a registry. pages_test.go says what there is, in SITES, and where the modules are.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { after, before, describe, test } from "node:test";

const require = createRequire(process.env.MODULES);
const { chromium } = require("playwright-core");
const axe = await readFile(require.resolve("axe-core/axe.min.js"), "utf8");
const sites = JSON.parse(process.env.SITES);
const desktop = { width: 1280, height: 860 }, phone = { width: 375, height: 760 };

let browser;
before(async () => {
  browser = await chromium.launch({
    executablePath: sites.Chromium,
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  });
});
after(() => browser.close());

// open opens a tab in a browser of its own. problems is what no page may bring about.
async function open(site, options = {}) {
  const context = await browser.newContext({ viewport: desktop, acceptDownloads: true, ...options });
  await context.grantPermissions(["clipboard-read", "clipboard-write"], { origin: site });
  const page = await context.newPage();
  const problems = [];
  page.on("console", (m) => {
    // That a page is missing, or refused, is what some of them are there to say.
    if (["error", "warning"].includes(m.type()) && !/status of 40[34]/.test(m.text())) problems.push(`console: ${m.text()}`);
  });
  page.on("pageerror", (e) => problems.push(`script: ${e}`));
  page.on("request", (r) => {
    if (!r.url().startsWith(site + "/")) problems.push(`request to ${r.url()}`);
  });
  page.on("dialog", (d) => { problems.push(`dialog: ${d.message()}`); d.dismiss(); });
  if (options.javaScriptEnabled !== false) {
    await page.addInitScript(() => {
      window.__violations = [];
      document.addEventListener("securitypolicyviolation", (e) => window.__violations.push(`${e.violatedDirective} ${e.blockedURI} ${e.sample}`));
    });
  }
  return { context, page, problems };
}

// sound fails where a page has brought about a problem.
async function sound(page, problems, where) {
  const violations = await page.evaluate(() => window.__violations);
  assert.deepEqual([...problems, ...violations.map((v) => `policy: ${v}`)], [], where);
  problems.length = 0;
}

const standards = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];

// accessible judges a page by standards, or by rules of axe.
async function accessible(page, where, runOnly = standards) {
  // Evaluated by the browser's debugger, which the policy of the page does not concern.
  if (!(await page.evaluate(() => "axe" in window))) await page.evaluate(axe);
  const { violations } = await page.evaluate((runOnly) => window.axe.run(document, { runOnly, resultTypes: ["violations"] }), runOnly);
  const serious = violations.filter((v) => ["serious", "critical"].includes(v.impact));
  assert.deepEqual(serious.map((v) => `${v.id}: ${v.help}: ${v.nodes.map((n) => n.html.slice(0, 200)).join(" | ")}`), [], where);
}

// eachPage judges the pages of a site in two tabs at once: another context for each page would take longer than the page.
function eachPage(name, site, paths, judge, enter = async () => {}) {
  describe(name, { concurrency: true }, () => {
    for (const tab of [0, 1]) {
      test(`tab ${tab}`, async () => {
        const { context, page, problems } = await open(site);
        await enter(page);
        for (const path of paths.filter((_, i) => i % 2 === tab)) {
          await page.goto(site + path);
          await judge(page, path);
          await sound(page, problems, path);
        }
        await context.close();
      });
    }
  });
}

function nameOf(path) {
  return path.replace(/sha256:[0-9a-f]+/, "digest").replace(/[^a-z0-9.]+/gi, "-").replace(/^-|-$/g, "") || "home";
}

async function shoot(page, name) {
  if (sites.Screenshots) await page.screenshot({ path: `${sites.Screenshots}/${name}.png`, fullPage: true });
}

async function signIn(page, token) {
  await page.getByLabel("Token").fill(token);
  await page.getByRole("button", { name: "Sign in" }).click();
}

// looks are how a page is looked at. What the themes and widths change is judged in each, and all else in the first. What the
// dark theme changes is seen on a wide screen, and what a narrow one does in the light theme.
const looks = [
  { name: "light-desktop", colorScheme: "light", viewport: desktop, rules: standards },
  { name: "dark-desktop", colorScheme: "dark", viewport: desktop },
  { name: "light-phone", colorScheme: "light", viewport: phone },
  { name: "dark-phone", colorScheme: "dark", viewport: phone, skip: !sites.Screenshots },
].filter((look) => !look.skip);

async function inEachLook(page, path) {
  assert.equal(await page.locator("h1").count(), 1, path);
  for (const { name, colorScheme, viewport, rules = ["color-contrast", "target-size", "scrollable-region-focusable"] } of looks) {
    await page.emulateMedia({ colorScheme });
    await page.setViewportSize(viewport);
    await accessible(page, `${path}, ${name}`, rules);
    const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert.ok(overflow <= 0, `${path}, ${name}: ${overflow} pixels too wide`);
    await shoot(page, `${nameOf(path)}-${name}`);
  }
}

eachPage("every page", sites.Public, sites.Pages, inEachLook);

test("signing in and out", async () => {
  const { context, page, problems } = await open(sites.Private);
  await page.goto(sites.Private + "/acme/charts/charts/web/1.4.2/-/values");
  assert.match(page.url(), /sign-in\?next=/);
  await signIn(page, "crt_00000000_nothing");
  await page.getByRole("alert").getByText("not valid here").waitFor();
  await accessible(page, "a refused token");
  await signIn(page, sites.Reader);
  await page.waitForURL("**/web/1.4.2/-/values");
  const [cookie] = await context.cookies();
  assert.deepEqual([cookie.name, cookie.httpOnly, cookie.sameSite, cookie.path], ["chartroom", true, "Strict", "/"]);
  assert.ok(cookie.expires - Date.now() / 1000 <= 3600);
  assert.equal(await page.evaluate(() => document.cookie), "");
  await page.goto(sites.Private + "/acme/charts/publish");
  assert.equal(await page.getByRole("button", { name: "Make a temporary token" }).count(), 0);
  await sound(page, problems, "signed in");
  await page.getByRole("button", { name: "Sign out" }).click();
  await page.waitForURL(sites.Private + "/");
  await page.goto(sites.Private + "/acme/charts");
  assert.match(page.url(), /sign-in/);
  // The pages that were seen are gone from the browser, too.
  await page.goBack();
  assert.equal(await page.getByText("in-memory store").count(), 0);
  await context.close();
});

test("a token for one chart sees one chart", async () => {
  const { context, page } = await open(sites.Private);
  await page.goto(sites.Private + "/acme/charts");
  await signIn(page, sites.Confined);
  await page.getByRole("link", { name: "redis" }).waitFor();
  assert.equal(await page.locator("#charts tbody tr").count(), 1);
  for (const path of ["/acme/charts/charts/web/1.4.2", "/acme/charts/charts/none/1.4.2", "/acme/charts/access", "/acme/charts/settings", "/acme/charts/activity"]) {
    assert.equal((await page.goto(sites.Private + path)).status(), 404, path);
  }
  await context.close();
});

test("who may push everything sees who has access", async () => {
  const { context, page, problems } = await open(sites.Private);
  await page.goto(sites.Private + "/acme/charts/access");
  await signIn(page, sites.Writer);
  await page.waitForURL("**/access");
  assert.ok((await page.content()).includes(sites.Writer.slice(0, 12)));
  assert.ok(!(await page.content()).includes(sites.Writer.slice(13, 40)));
  await page.getByLabel("The claims of a token").fill('{"iss": "https://ci.example", "repository": "acme/web", "ref": "refs/heads/x"}');
  await page.getByRole("button", { name: "Try", exact: true }).click();
  await page.getByText("claims.ref").waitFor();
  await page.getByLabel("The claims of a token").fill('{"iss": "https://ci.example", "repository": "acme/web", "ref": "refs/heads/main"}');
  await page.getByRole("button", { name: "Try", exact: true }).click();
  await page.getByText("Admitted", { exact: true }).waitFor();
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme });
    await accessible(page, `access, ${colorScheme}`);
    await shoot(page, `access-${colorScheme}`);
  }
  await sound(page, problems, "access");
  await context.close();
});

// entered signs in, and waits for a text of the page behind.
const entered = (address, token, behind, text) => async (page) => {
  await page.goto(address);
  await signIn(page, token);
  await page.waitForURL(behind);
  await page.getByText(text).first().waitFor();
};

eachPage("what those see who may push everything", sites.Watched, ["settings", "activity", "publish"].map((p) => "/acme/charts/" + p), inEachLook,
  entered(sites.Watched + "/acme/charts/settings", sites.Watcher, "**/settings", "kubectl edit hreg charts -n team-a"));

// until loads a page until something is on it.
async function until(page, locator, what) {
  for (let tries = 0; (await locator().count()) === 0; tries++) {
    assert.ok(tries < 300, what);
    await page.waitForTimeout(100);
    await page.reload();
  }
}

for (const javaScriptEnabled of [true, false]) {
  test(`pinging and delivering again, with scripts: ${javaScriptEnabled}`, async () => {
    const { context, page, problems } = await open(sites.Watched, { javaScriptEnabled });
    await page.goto(sites.Watched + "/acme/charts/activity");
    await signIn(page, sites.Watcher);
    await page.waitForURL("**/activity");
    await page.locator("#changes tbody tr", { hasText: "stable/web 1.5.1" }).getByText("Copied").waitFor();
    await page.locator("#changes tbody tr", { hasText: "web 1.5.0" }).getByText("Deleted").waitFor();
    const of = (receiver) => page.locator(`#receiver-${receiver}`);
    await until(page, () => of("argocd").getByText("In order"), "Argo CD is not told");
    await until(page, () => of("old-ci").getByText("Gone", { exact: true }), "one that is gone is not seen to be");
    await until(page, () => of("chat").getByText("Failing since"), "one that fails is not seen to");
    const row = () => of("argocd").locator("tbody tr", { hasText: "stable/web" });
    await until(page, row, "the copy is not told");
    await of("argocd").getByRole("button", { name: "Ping argocd" }).click();
    await page.waitForURL("**asked=ping**");
    await of("argocd").getByText("A ping was asked for").waitFor();
    assert.equal(await page.locator(".done").count(), 1);
    if (javaScriptEnabled) {
      await accessible(page, "a ping");
      await sound(page, problems, "a ping");
    }
    // Loading the page again asks for nothing.
    await until(page, () => of("argocd").locator("tbody tr:first-child", { hasText: "Ping" }).getByText("Delivered"), "the ping is not delivered");
    await row().first().getByRole("button", { name: /^Redeliver to argocd: Copied stable\/web 1.5.1/ }).click();
    await page.waitForURL("**asked=redeliver**");
    await of("argocd").getByText("asked for once more").waitFor();
    await until(page, () => of("argocd").locator("tbody tr:first-child", { hasText: "stable/web" }), "the event is not delivered again");
    await of("argocd").getByRole("link", { name: "look again" }).click();
    await page.waitForURL("**/activity#receiver-argocd");
    assert.equal(await page.locator(".done").count(), 0);
    // An event that is delivered by hand is not tried again.
    await of("chat").getByRole("button", { name: "Ping chat" }).click();
    await until(page, () => of("chat").locator("tbody tr", { hasText: "Ping" }).getByText("Given up"), "the ping is not given up");
    await context.close();
  });
}

test("a temporary token pushes, and is shown once", async () => {
  const { context, page, problems } = await open(sites.Private);
  await page.goto(sites.Private + "/acme/charts/publish");
  await signIn(page, sites.Writer);
  await page.getByRole("button", { name: "Make a temporary token" }).click();
  const token = await page.locator("#temporary-token").textContent();
  assert.match(token, /^crs_/);
  await page.getByRole("button", { name: "Copy the token" }).click();
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), token);
  await accessible(page, "a temporary token");
  await sound(page, problems, "a temporary token");
  await shoot(page, "temporary-token");
  const authorization = "Basic " + Buffer.from("any:" + token).toString("base64");
  const begun = await fetch(sites.Private + "/v2/acme/charts/new/blobs/uploads/", { method: "POST", headers: { authorization } });
  assert.equal(begun.status, 202);
  const cookie = (await context.cookies())[0].value;
  const refused = await fetch(sites.Private + "/v2/", { headers: { authorization: "Bearer " + cookie } });
  assert.equal(refused.status, 401);
  await page.goto(sites.Private + "/acme/charts/publish");
  assert.equal(await page.locator("#temporary-token").count(), 0);
  await context.close();
});

test("another site cannot send forms here", async () => {
  const { context, page } = await open(sites.Private);
  await page.goto(sites.Private + "/-/sign-in");
  await signIn(page, sites.Writer);
  await page.waitForURL("**/acme/charts");
  const other = await context.newPage();
  await other.goto(sites.Public + "/-/sign-in");
  const target = sites.Private.replace("127.0.0.1", "localhost") + "/acme/charts/publish";
  const blocked = await other.evaluate(async (target) => {
    const answer = await fetch(target, { method: "POST", mode: "no-cors", credentials: "include" }).catch((e) => e);
    return answer.type ?? String(answer);
  }, target);
  assert.notEqual(blocked, "basic");
  const answer = await fetch(sites.Private + "/-/sign-in", { method: "POST", headers: { origin: "https://evil.example", "content-type": "application/x-www-form-urlencoded" }, body: "token=" + sites.Writer, redirect: "manual" });
  assert.equal(answer.status, 403);
  await context.close();
});

test("searching, sorting and filtering", async () => {
  const { context, page, problems } = await open(sites.Public);
  await page.goto(sites.Public + "/acme/charts");
  const rows = page.locator("#charts tbody tr:visible");
  const all = await rows.count();
  assert.equal(all, 6);
  await page.getByRole("searchbox").fill("database");
  assert.equal(await rows.count(), 1);
  await page.getByText("1 of 6 charts").first().waitFor();
  await page.getByRole("searchbox").press("Enter");
  await page.waitForURL("**q=database**");
  assert.equal(await rows.count(), 1);
  await page.goto(sites.Public + "/acme/charts");
  await page.getByRole("link", { name: "Versions" }).click();
  await page.waitForURL("**sort=versions");
  assert.match(await rows.first().textContent(), /web/);
  await page.getByRole("link", { name: "web", exact: true }).click();
  await page.waitForURL("**/charts/web/1.4.2");
  await sound(page, problems, "searching");
  await context.close();
});

test("copying what is to be pasted", async () => {
  const { context, page, problems } = await open(sites.Public);
  await page.goto(sites.Public + "/acme/charts/charts/web/1.4.2");
  await page.getByRole("button", { name: "Copy Install", exact: true }).click();
  await page.getByText("Copied").first().waitFor();
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), `helm install web oci://${new URL(sites.Public).host}/acme/charts/web --version 1.4.2 --plain-http`);
  assert.equal(await page.locator("[role=status]").first().textContent(), "Copied");
  await page.getByRole("button", { name: "Copy the digest of the manifest" }).click();
  assert.match(await page.evaluate(() => navigator.clipboard.readText()), /^sha256:[0-9a-f]{64}$/);
  await sound(page, problems, "copying");
  await context.close();
});

test("comparing values, and finding one", async () => {
  const { context, page, problems } = await open(sites.Public);
  await page.goto(sites.Public + "/acme/charts/charts/web/1.4.2/-/values");
  await page.getByPlaceholder("Find a path").fill("cache.rules[1].ttl");
  await page.locator(".line.here").getByText("30").waitFor();
  // With the keyboard alone one gets the address of a line, and the path of its key.
  const line = await page.locator(".line.here").getAttribute("id");
  await page.keyboard.press("Enter");
  assert.equal(new URL(page.url()).hash, "#" + line);
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Copy the path");
  await page.keyboard.press("Enter");
  await page.getByText("Copied").first().waitFor();
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), "cache.rules[1].ttl");
  await page.goto(sites.Public + "/acme/charts/charts/web/1.4.2/-/values#L5");
  assert.equal(await page.locator(".line:target").textContent(), "  repository: registry.example/acme/web\n");
  await page.getByLabel("Compare with").fill("1.3.0");
  await page.getByRole("button", { name: "Compare" }).click();
  await page.getByText("3 lines added, 2 lines removed").waitFor();
  assert.deepEqual(await page.locator(".d-removed code").allTextContents(), ["replicas: 2", '  tag: "1.26.0"']);
  assert.deepEqual(await page.locator(".d-added code").allTextContents(), ["replicas: 3", '  tag: "1.27.4"', "    memory: 256Mi"]);
  await sound(page, problems, "comparing");
  await context.close();
});

test("downloading", async () => {
  const { context, page, problems } = await open(sites.Public);
  const path = sites.Public + "/acme/charts/charts/web/1.4.2";
  await page.goto(path);
  const get = async (name) => {
    const [download] = await Promise.all([page.waitForEvent("download"), page.getByRole("link", { name }).first().click()]);
    return [download.suggestedFilename(), await readFile(await download.path())];
  };
  const [name, archive] = await get("Download chart");
  assert.equal(name, "web-1.4.2.tgz");
  assert.equal(createHash("sha256").update(archive).digest("hex"), sites.Archive);
  const [, manifest] = await get("Download manifest");
  assert.equal(JSON.parse(manifest).schemaVersion, 2);
  // It counts, and the page says so.
  for (let tries = 0; ; tries++) {
    await page.goto(path);
    if ((await page.locator("dt", { hasText: "Downloads" }).locator("+ dd").textContent()) === "1") break;
    assert.ok(tries < 300, "the download is not counted");
    await page.waitForTimeout(100);
  }
  await sound(page, problems, "downloading");
  await context.close();
});

test("what was stored is never a page", async () => {
  for (const file of ["chart.tgz", "manifest.json", "values.yaml"]) {
    const answer = await fetch(`${sites.Hostile}/acme/charts/charts/web/1.0.0/-/${file}`);
    assert.equal(answer.status, 200, file);
    assert.equal(answer.headers.get("content-security-policy"), "default-src 'none'; sandbox");
    assert.match(answer.headers.get("content-disposition"), /^attachment/);
    assert.equal(answer.headers.get("x-content-type-options"), "nosniff");
  }
});

test("the theme is kept", async () => {
  const { context, page, problems } = await open(sites.Public, { colorScheme: "light" });
  await page.goto(sites.Public + "/acme/charts");
  const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const light = await ground();
  await page.getByRole("button", { name: "Theme: auto" }).click();
  await page.getByRole("button", { name: "Theme: light" }).click();
  assert.notEqual(await ground(), light);
  await page.goto(sites.Public + "/acme/charts/publish");
  await page.getByRole("button", { name: "Theme: dark" }).waitFor();
  assert.notEqual(await ground(), light);
  await sound(page, problems, "the theme");
  await context.close();
});

test("with the keyboard alone", async () => {
  const { context, page } = await open(sites.Public);
  await page.goto(sites.Public + "/acme/charts");
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Skip to the content");
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement.id), "main");
  for (let i = 0; i < 30; i++) {
    await page.keyboard.press("Tab");
    if ((await page.evaluate(() => document.activeElement.textContent)) === "web") break;
  }
  await page.keyboard.press("Enter");
  await page.waitForURL("**/charts/web/1.4.2");
  await context.close();
});

test("without scripts", async () => {
  const { context, page } = await open(sites.Private, { javaScriptEnabled: false });
  await page.goto(sites.Private + "/acme/charts/charts/web/1.4.2/-/values");
  await signIn(page, sites.Writer);
  await page.waitForURL("**/values");
  await page.getByLabel("Compare with").fill("1.3.0");
  await page.getByRole("button", { name: "Compare" }).click();
  await page.getByText("3 lines added").waitFor();
  await page.goto(sites.Private + "/acme/charts");
  await page.getByRole("searchbox").fill("database");
  await page.getByRole("button", { name: "Search" }).click();
  await page.getByText("1 chart found").waitFor();
  assert.equal(await page.getByRole("button", { name: "Copy" }).count(), 0);
  await page.getByRole("link", { name: "Publish instructions" }).click();
  await page.getByRole("button", { name: "Make a temporary token" }).click();
  await page.locator("#temporary-token").waitFor();
  await page.getByRole("button", { name: "Sign out" }).click();
  await page.waitForURL(sites.Private + "/");
  await context.close();
});

eachPage("nothing that strangers wrote runs", sites.Hostile, sites.HostilePages, async (page, path) => {
  // All that could be run by a hand, as well.
  for (const href of await page.locator("main a").evaluateAll((all) => all.map((a) => a.getAttribute("href")))) {
    assert.ok(/^(https?:\/\/|mailto:|\/|\?|#)/.test(href ?? "") && !href.startsWith("//"), `${path} has a link to ${href}`);
  }
  await page.mouse.move(400, 400);
  assert.equal(await page.evaluate(() => window.__xss), undefined, path);
  assert.equal(await page.locator("main img, main script, main iframe, main form[action^='http'], main [onerror], main [onload], main [style]").count(), 0, path);
}, entered(sites.Hostile + "/-/sign-in", sites.HostileWriter, "**/acme/charts", "Releases"));
