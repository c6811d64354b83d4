//go:build e2e

package e2e

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Masterminds/semver/v3"
	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// countsTime and countsSeed are environment variables: how long charts are pushed, pulled and deleted, 1h for example,
	// and what decides which.
	countsTime, countsSeed = "CHARTROOM_COUNTS_TIME", "CHARTROOM_COUNTS_SEED"
	// countsRound is the longest time between two comparisons.
	countsRound = 5 * time.Minute
	// countsWorkers work at the same time, each on versions of its own, and pause for up to countsPause after each thing they do.
	countsWorkers = 6
	countsPause   = 600 * time.Millisecond
	// killLoses is how far back a SIGKILL takes downloads with it, by the manual: those of the last ten seconds, and what a
	// server had not heard of yet, up to five on S3; and room for a machine that is busy.
	killLoses = 20 * time.Second
	// clock is how times are written that are to be found in the logs of pods.
	clock = "15:04:05.000"
)

// counts is a registry together with what must be in it.
type counts struct {
	*world
	registry *v1alpha1.HelmRegistry
	s3       *s3Server
	wire     *wire
	helms    []*helm

	mu sync.Mutex
	// charts are the versions that must be there, by chart and tag.
	charts map[string]map[string]stored
	// downloads are of each archive that was ever pulled; pulls are those since the last comparison, and kills what they may be lost by.
	downloads map[blob]*bounds
	pulls     []pull
	kills     []kill
	done      map[string]int
	// gentle is true while nothing happens to the pods that may break off a request.
	gentle bool
	// rest is the shortest time between two things that happen to pods, a fifth of the longest.
	rest time.Duration
	// history is what happened since the last comparison, to explain a difference.
	history []string
}

// stored is a version that was pushed.
type stored struct {
	manifest, archive, appVersion string
	since                         time.Time
}

// blob is an archive of a chart.
type blob struct{ chart, archive string }

// bounds are how often something was downloaded, at least and at most.
type bounds struct{ low, high int64 }

// pull is one that succeeded, at a pod, or through the Service where that is empty. young says that the version went soon
// after, so that a pod which did not know it yet did not count it.
type pull struct {
	of    blob
	at    time.Time
	pod   string
	young bool
}

type kill struct {
	pod        string
	begin, end time.Time
}

// If this fails, people who look at a registry in different ways are told different things: kubectl, the page, the API, the index
// for helm and the bucket itself have to say the same, and what is right, whatever has happened to the pods.
func TestCountsAgree(t *testing.T) {
	t.Parallel()
	total, seed := time.Minute, time.Now().UnixNano()
	var err error
	if text := os.Getenv(countsTime); text != "" {
		if total, err = time.ParseDuration(text); err != nil {
			t.Fatalf("%s: %v", countsTime, err)
		}
	}
	if text := os.Getenv(countsSeed); text != "" {
		if seed, err = strconv.ParseInt(text, 10, 64); err != nil {
			t.Fatalf("%s: %v", countsSeed, err)
		}
	}
	t.Logf("%s=%d %s=%s", countsSeed, seed, countsTime, total)

	c := newCounts(t)
	c.rest = min(max(2*time.Second, total/100), 8*time.Second)
	random := rand.New(rand.NewPCG(uint64(seed), 0))
	var workers []*countsWorker
	for i := range countsWorkers {
		workers = append(workers, newCountsWorker(c, i, rand.New(rand.NewPCG(uint64(seed), uint64(i+1)))))
	}
	rounds := max(2, int((total+countsRound-1)/countsRound))
	for round := range rounds {
		c.gentle = round%2 == 0
		ends := time.Now().Add(total / time.Duration(rounds))
		load, stop := context.WithDeadline(t.Context(), ends)
		var group sync.WaitGroup
		for _, worker := range workers {
			group.Go(func() { worker.run(load) })
		}
		c.disturb(load, random)
		stop()
		group.Wait()
		c.serving()
		c.compare(fmt.Sprintf("round %d of %d", round+1, rounds))
		if t.Failed() {
			break
		}
	}
	for _, what := range slices.Sorted(maps.Keys(c.done)) {
		t.Logf("DONE %6d %s", c.done[what], what)
	}
}

func newCounts(t *testing.T) *counts {
	t.Helper()
	w := newWorld(t)
	c := &counts{world: w, charts: map[string]map[string]stored{}, downloads: map[blob]*bounds{}, done: map[string]int{}, s3: w.s3Server()}
	c.registry = w.onS3(c.s3, func(r *v1alpha1.HelmRegistry) { r.Spec.Tags.Mutable = []string{"*-dev"} })
	_, password := w.token("charts", "ci", []v1alpha1.Scope{v1alpha1.ScopeRead, v1alpha1.ScopeWrite, v1alpha1.ScopeDelete})
	c.wire = w.wire(c.registry, password)
	for _, name := range []string{"helm-v3", "helm-v4"} {
		c.helms = append(c.helms, w.helm(tool(t, name), "charts").loggedIn(c.registry, password))
	}
	c.serving()
	return c
}

// serving waits until there are two pods, both of them ready, and lets the workers know them.
func (c *counts) serving() []corev1.Pod {
	c.Helper()
	var all []corev1.Pod
	c.eventually("two pods, both of them ready", func(ctx context.Context) (err error) {
		if all, err = c.pods(ctx, "charts"); err != nil {
			return err
		}
		if len(all) != 2 || slices.ContainsFunc(all, func(p corev1.Pod) bool { return !isReady(p) || p.DeletionTimestamp != nil }) {
			return fmt.Errorf("there are %d", len(all))
		}
		return nil
	})
	c.wire.know(all)
	return all
}

// disturb replaces and kills pods, until ctx ends. While it is gentle, it does only what may not break a request.
func (c *counts) disturb(ctx context.Context, random *rand.Rand) {
	c.Helper()
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(c.rest + time.Duration(random.Int64N(int64(4*c.rest)))):
		}
		pods := c.serving()
		pod := pods[random.IntN(len(pods))]
		kinds := []string{"pod deleted", "pod deleted", "operator deleted"}
		if !c.gentle {
			kinds = []string{"pod deleted", "pod deleted", "container killed", "container killed", "both containers killed", "pod deleted by force", "operator deleted", "operator killed"}
		}
		kind := kinds[random.IntN(len(kinds))]
		// A container that was killed again and again is not started again for minutes.
		if strings.HasSuffix(kind, "killed") && slices.ContainsFunc(pods, func(p corev1.Pod) bool { return p.Status.ContainerStatuses[0].RestartCount > 0 }) {
			kind = "pod deleted"
		}
		begin := time.Now()
		var killed []corev1.Pod
		switch kind {
		case "pod deleted":
			c.must(c.Delete(c.Context(), &pod), "deleting a pod")
		case "pod deleted by force":
			now := int64(0)
			c.must(c.Delete(c.Context(), &pod, &client.DeleteOptions{GracePeriodSeconds: &now}), "deleting a pod by force")
			killed = []corev1.Pod{pod}
		case "container killed":
			killed = []corev1.Pod{pod}
			c.kill(pod)
		case "both containers killed":
			killed = pods
			c.kill(pods...)
		case "operator deleted", "operator killed":
			operator := c.operatorPods()[0]
			if kind == "operator killed" && operator.Status.ContainerStatuses[0].RestartCount == 0 {
				c.kill(operator)
			} else {
				c.must(c.Delete(c.Context(), &operator), "deleting the operator's pod")
			}
		}
		end := time.Now().Add(2 * time.Second)
		if kind == "pod deleted by force" {
			end = end.Add(time.Minute) // Nobody waits until it has really ended, and its name does not come again.
		}
		c.mu.Lock()
		c.done[kind]++
		c.history = append(c.history, fmt.Sprintf("%s %s, %s first", begin.UTC().Format(clock), kind, pod.Name))
		for _, pod := range killed {
			c.kills = append(c.kills, kill{pod.Name, begin, end})
		}
		c.mu.Unlock()
		if killed != nil && kind != "pod deleted by force" {
			for _, pod := range killed {
				c.restarted(pod)
			}
		}
	}
}

// expectation is what must be told of a chart.
type expectation struct {
	versions             int
	latest               stored
	latestVersion        string
	size, downloads      int64
	lastPushed           time.Time
	sizes, versionsPulls map[string]int64
}

// compare requires that the bucket holds what must be in it, and that all others tell what it holds.
func (c *counts) compare(when string) {
	c.Helper()
	c.settlePulls()
	started := time.Now()
	// What was downloaded is in the bucket once each pod has written it.
	if slices.ContainsFunc(slices.Collect(maps.Values(c.downloads)), func(b *bounds) bool { return b.low < b.high }) {
		select {
		case <-time.After(killLoses):
		case <-c.Context().Done():
		}
	}
	var held *held
	c.eventually(when+": the bucket to hold what was pushed, and how often it was pulled", func(ctx context.Context) (err error) {
		if held, err = c.s3.held(ctx); err != nil {
			return err
		}
		return c.differsFrom(held)
	})
	expected := c.expected(held)
	pods := c.serving()
	for _, pod := range pods {
		c.eventually(when+": the page of "+pod.Name, func(ctx context.Context) error { return c.wire.pageDiffers(ctx, pod, expected) })
		c.eventually(when+": the API of "+pod.Name, func(ctx context.Context) error { return c.wire.apiDiffers(ctx, pod, expected) })
		c.eventually(when+": the index of "+pod.Name, func(ctx context.Context) error { return c.wire.indexDiffers(ctx, pod, expected, c.charts) })
	}
	c.eventually(when+": the status", func(ctx context.Context) error {
		if err := c.Get(ctx, client.ObjectKeyFromObject(c.registry), c.registry); err != nil {
			return err
		}
		return statusDiffers(c.registry.Status, expected)
	})
	c.row(c.registry)
	versions, pulls := 0, int64(0)
	for _, e := range expected {
		versions, pulls = versions+e.versions, pulls+e.downloads
	}
	c.Logf("AGREED %s: %d charts, %d versions, %d downloads of them; %s after the last request", when, len(expected), versions, pulls, time.Since(started).Round(time.Second))
}

// settlePulls draws the bounds of what was counted.
func (c *counts) settlePulls() {
	unsure := 0
	for _, p := range c.pulls {
		b := c.downloads[p.of]
		b.high++
		c.history = append(c.history, fmt.Sprintf("%s %s %s was pulled at %q, young: %t", p.at.UTC().Format(clock), p.of.chart, p.of.archive, p.pod, p.young))
		lost := slices.ContainsFunc(c.kills, func(k kill) bool {
			return (p.pod == "" || p.pod == k.pod) && p.at.After(k.begin.Add(-killLoses)) && p.at.Before(k.end)
		})
		if lost || p.young {
			unsure++
			continue
		}
		b.low++
	}
	c.Logf("%d pulls, of which %d may be lost by %d kills, or were of what went soon after", len(c.pulls), unsure, len(c.kills))
	c.pulls, c.kills = nil, nil
}

// differsFrom says where the bucket holds something else than it must. What it says of downloads is what holds from now on.
func (c *counts) differsFrom(h *held) error {
	var problems []error
	for _, chart := range union(c.charts, h.charts) {
		for _, tag := range union(c.charts[chart], h.charts[chart]) {
			want, is := c.charts[chart][tag], h.charts[chart][tag]
			if want.manifest != is.manifest || want.archive != is.archive {
				problems = append(problems, fmt.Errorf("%s:%s is %q with the archive %q, want %q with %q", chart, tag, is.manifest, is.archive, want.manifest, want.archive))
			}
		}
	}
	for _, of := range union(c.downloads, h.downloads) {
		b := c.downloads[of]
		if b == nil {
			b = &bounds{}
		}
		if n := h.downloads[of]; n < b.low || n > b.high {
			about := slices.DeleteFunc(slices.Clone(c.history), func(line string) bool {
				return strings.Contains(line, " was pulled at ") && !strings.Contains(line, of.archive)
			})
			problems = append(problems, fmt.Errorf("%s %s was downloaded %d times, want %d to %d; what happened:\n%s", of.chart, of.archive, n, b.low, b.high, strings.Join(about, "\n")))
		}
	}
	if len(problems) > 0 {
		return fmt.Errorf("%d differences: %w", len(problems), errors.Join(problems[:min(len(problems), 5)]...))
	}
	for of, b := range c.downloads {
		b.low, b.high = h.downloads[of], h.downloads[of]
	}
	c.history = nil
	return nil
}

// union has the keys of both, each once.
func union[K comparable, A, B any](a map[K]A, b map[K]B) []K {
	keys := slices.Collect(maps.Keys(a))
	for k := range b {
		if _, there := a[k]; !there {
			keys = append(keys, k)
		}
	}
	return keys
}

// expected is what is told of each chart: versions as they were pushed, sizes and times as they are in the bucket.
func (c *counts) expected(h *held) map[string]expectation {
	all := map[string]expectation{}
	for chart, versions := range c.charts {
		if len(versions) == 0 {
			continue
		}
		e := expectation{versions: len(versions), size: h.sizes[chart], sizes: map[string]int64{}, versionsPulls: map[string]int64{}}
		var latest *semver.Version
		archives := map[string]bool{}
		for tag, v := range versions {
			version := semver.MustParse(strings.ReplaceAll(tag, "_", "+"))
			if latest == nil || cmp.Or(boolCompare(latest.Prerelease() != "", version.Prerelease() != ""), version.Compare(latest)) > 0 {
				latest, e.latest, e.latestVersion = version, v, version.Original()
			}
			if at := h.charts[chart][tag].since; at.After(e.lastPushed) {
				e.lastPushed = at
			}
			e.sizes[tag] = h.charts[chart][tag].size
			e.versionsPulls[tag] = h.downloads[blob{chart, v.archive}]
			archives[v.archive] = true
		}
		for archive := range archives {
			e.downloads += h.downloads[blob{chart, archive}]
		}
		all[chart] = e
	}
	return all
}

// boolCompare orders false before true.
func boolCompare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// countsWorker does one thing after the other. What versions it pushes, deletes and pulls are its own, in charts of all.
type countsWorker struct {
	*counts
	number int
	random *rand.Rand
	// keys are its versions.
	keys []key
}

type key struct{ chart, tag string }

func newCountsWorker(c *counts, number int, random *rand.Rand) *countsWorker {
	x := &countsWorker{counts: c, number: number, random: random, keys: []key{{fmt.Sprintf("lone-%d", number), "0.1.0"}}}
	for _, chart := range []string{"app", "web", "team/web", "common"} {
		for n := number; n < 2*countsWorkers; n += countsWorkers {
			for _, form := range []string{"1.0.%d", "1.1.%d", "1.2.%d_build.5", "1.3.%d-rc.1", "2.0.%d-dev"} {
				x.keys = append(x.keys, key{chart, fmt.Sprintf(form, n)})
			}
		}
	}
	return x
}

// did notes that something was done.
func (c *counts) did(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done[what]++
}

func (c *counts) find(k key) (stored, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, there := c.charts[k.chart][k.tag]
	return v, there
}

func (c *counts) keep(k key, v stored) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.charts[k.chart] == nil {
		c.charts[k.chart] = map[string]stored{}
	}
	c.charts[k.chart][k.tag] = v
	c.history = append(c.history, fmt.Sprintf("%s %s %s is there as %s", v.since.UTC().Format(clock), k.chart, v.archive, k.tag))
	if c.downloads[blob{k.chart, v.archive}] == nil {
		c.downloads[blob{k.chart, v.archive}] = &bounds{}
	}
}

func (c *counts) drop(k key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.charts[k.chart], k.tag)
}

// run works until ctx ends. What was begun is brought to its end.
func (x *countsWorker) run(ctx context.Context) {
	for ctx.Err() == nil && !x.Failed() {
		k := x.keys[x.random.IntN(len(x.keys))]
		if x.random.IntN(5) == 0 {
			k.chart = "stable/" + base(k.chart) // Where copies are.
		}
		v, there := x.find(k)
		switch p := x.random.IntN(100); {
		case !there && strings.HasPrefix(k.chart, "stable/"):
			x.copy(k)
		case !there:
			x.push(k, x.random.IntN(3))
		case p < 55:
			x.pull(k, v)
		case p < 70:
			x.delete(k, v)
		case p < 80:
			x.pushAgain(k, v)
		default:
			x.distract(k, v)
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(x.random.Int64N(int64(countsPause)))):
		}
	}
}

// insist does something until it is answered otherwise than by a server that is ending, or not there. again says that an
// attempt before may have been carried out.
func (x *countsWorker) insist(what string, try func(again bool) (answer, error)) answer {
	x.Helper()
	for deadline, again := time.Now().Add(patience), false; ; again = true {
		a, err := try(again)
		if err == nil && a.status < 500 && a.status != http.StatusTooManyRequests {
			return a
		}
		if x.gentle && err != nil && a.pod == "" {
			x.Errorf("%s %s was broken off, although no pod was killed: %v", time.Now().UTC().Format(clock), what, err)
		}
		x.did("tries that failed")
		if x.Context().Err() != nil || time.Now().After(deadline) {
			x.Errorf("%s: it goes on failing: %d %s %v", what, a.status, a.body, err)
			return a
		}
		time.Sleep(time.Duration(100+x.random.IntN(400)) * time.Millisecond)
	}
}

// mutable tags may be moved.
func (k key) mutable() bool { return strings.HasSuffix(k.tag, "-dev") }

// push publishes one of the contents that a version may have, in one of four ways.
func (x *countsWorker) push(k key, variant int) {
	archive := newArchive(base(k.chart), k.tag, variant)
	switch way := x.random.IntN(20); {
	case way < 6:
		x.upload("published as to a classic repository", x.wire.classic(k.chart), archive, k)
	case way < 12:
		x.upload("published by the API", x.wire.packages("")+"?to="+k.chart, archive, k)
	case way < 19:
		x.pushOCI(k, archive)
	default:
		x.pushByHelm(k, archive)
	}
	x.look(k, archive)
}

func (x *countsWorker) upload(what, path string, archive archive, k key) {
	a := x.insist(what, func(bool) (answer, error) { return x.wire.upload(x.somewhere(), path, archive) })
	if a.status/100 != 2 {
		x.Errorf("%s: %s:%s is answered %d %s", what, k.chart, k.tag, a.status, a.body)
	}
	x.did(what)
}

func (x *countsWorker) pushOCI(k key, archive archive) {
	if a := x.putManifest(k.chart, k.tag, archive, x.random.IntN(2) == 0); a.status != http.StatusCreated {
		x.Errorf("pushing %s:%s is answered %d %s", k.chart, k.tag, a.status, a.body)
	}
	x.did("pushed as an OCI client does")
}

// putManifest stores the blobs and the manifest of an archive. With provenance it has a layer more, the same for all versions.
func (x *countsWorker) putManifest(chart, reference string, archive archive, provenance bool) answer {
	blobs := [][]byte{archive.config(), archive.content}
	if provenance {
		blobs = append(blobs, sharedProvenance)
	}
	for _, content := range blobs {
		x.putBlob(chart, content)
	}
	manifest := archive.manifest(provenance)
	if reference == "" {
		reference = digestOf(manifest)
	}
	return x.insist("pushing a manifest", func(bool) (answer, error) {
		return x.wire.send(x.somewhere(), http.MethodPut, x.wire.v2(chart)+"/manifests/"+reference, manifest, "Content-Type", manifestType)
	})
}

func (x *countsWorker) putBlob(chart string, content []byte) {
	digest := digestOf(content)
	a := x.insist("pushing a blob", func(bool) (answer, error) {
		if a, err := x.wire.send(x.somewhere(), http.MethodHead, x.wire.v2(chart)+"/blobs/"+digest, nil); err == nil && a.status == http.StatusOK {
			return a, nil
		}
		return x.wire.send(x.somewhere(), http.MethodPost, x.wire.v2(chart)+"/blobs/uploads/?digest="+digest, content, "Content-Type", "application/octet-stream")
	})
	if a.status != http.StatusCreated && a.status != http.StatusOK {
		x.Errorf("pushing a blob of %s is answered %d %s", chart, a.status, a.body)
	}
}

func (x *countsWorker) pushByHelm(k key, archive archive) {
	file := archive.file(x.TempDir(), k.tag)
	if err := os.WriteFile(file, archive.content, 0o600); err != nil {
		x.Errorf("writing an archive: %v", err)
		return
	}
	defer os.Remove(file)
	h := x.helms[x.random.IntN(len(x.helms))]
	to := x.registry.Status.OCIURL
	if folder, _, found := strings.Cut(k.chart, "/"); found {
		to += "/" + folder
	}
	x.insist("helm push", func(bool) (answer, error) {
		out, err := h.run(h.environment, "", h.path, "push", file, to, h.trust())
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return answer{}, err
	})
	x.did("pushed by helm")
}

// look notes which manifest a version has now. It must have this archive.
func (x *countsWorker) look(k key, archive archive) {
	a := x.manifest(k)
	v := stored{manifest: a.digest(), archive: digestOf(archive.content), appVersion: archive.appVersion(), since: time.Now()}
	if a.status != http.StatusOK || !strings.Contains(string(a.body), v.archive) {
		x.Errorf("what was pushed as %s:%s is answered %d %s, without the archive %s", k.chart, k.tag, a.status, a.body, v.archive)
		return
	}
	x.keep(k, v)
}

func (x *countsWorker) manifest(k key) answer {
	return x.insist("reading a manifest", func(bool) (answer, error) {
		return x.wire.send(x.somewhere(), http.MethodGet, x.wire.v2(k.chart)+"/manifests/"+k.tag, nil, "Accept", manifestType)
	})
}

// pushAgain pushes to a version that is there: what may be moved is, and of what may not the same content is taken and
// another one refused.
func (x *countsWorker) pushAgain(k key, v stored) {
	variant := x.random.IntN(3)
	archive := newArchive(base(k.chart), k.tag, variant)
	switch {
	case k.mutable():
		x.outdate(k, v)
		x.push(k, variant)
		x.did("moved to another content, or the same")
	case digestOf(archive.content) == v.archive:
		x.upload("published again", x.wire.packages("")+"?to="+k.chart, archive, k)
		if now := x.manifest(k).digest(); now != v.manifest {
			x.Errorf("publishing %s:%s again made %s of %s", k.chart, k.tag, now, v.manifest)
		}
	default:
		a := x.insist("publishing other content", func(bool) (answer, error) {
			if x.random.IntN(2) == 0 {
				return x.wire.upload(x.somewhere(), x.wire.classic(k.chart), archive)
			}
			return x.putManifest(k.chart, k.tag, archive, false), nil
		})
		if a.status != http.StatusConflict {
			x.Errorf("other content for %s:%s is answered %d %s", k.chart, k.tag, a.status, a.body)
		}
		x.did("other content refused")
	}
}

// copy makes a version of a stable chart of one that is there.
func (x *countsWorker) copy(k key) {
	from := key{base(k.chart), k.tag}
	if base(k.chart) == "web" && x.random.IntN(2) == 0 {
		from.chart = "team/web"
	}
	v, there := x.find(from)
	if !there {
		return
	}
	a := x.insist("copying", func(bool) (answer, error) {
		return x.wire.send(x.somewhere(), http.MethodPost, x.wire.packages(from.chart+":"+from.tag)+"/copy?to="+k.chart, nil)
	})
	if a.status/100 != 2 {
		x.Errorf("copying %s:%s is answered %d %s", from.chart, from.tag, a.status, a.body)
		return
	}
	v.since = time.Now()
	x.keep(k, v)
	x.did("copied")
}

// delete removes a version in one of three ways.
func (x *countsWorker) delete(k key, v stored) {
	path := x.wire.v2(k.chart) + "/manifests/" + k.tag
	switch x.random.IntN(3) {
	case 0:
		path = x.wire.v2(k.chart) + "/manifests/" + v.manifest
	case 1:
		path = x.wire.packages(k.chart + ":" + k.tag)
	}
	x.outdate(k, v)
	a := x.insist("deleting", func(again bool) (answer, error) {
		a, err := x.wire.send(x.somewhere(), http.MethodDelete, path, nil)
		if again && a.status == http.StatusNotFound {
			a.status = http.StatusOK
		}
		return a, err
	})
	if a.status/100 != 2 {
		x.Errorf("deleting %s:%s with %s is answered %d %s", k.chart, k.tag, path, a.status, a.body)
	}
	x.drop(k)
	x.did("deleted")
}

// outdate notes that a version is about to go, or to be another one. A server that has not heard of a version yet, because it was
// pushed elsewhere or the server has only just started, keeps a download of it until it has, which takes less than a minute
// here: of what goes before, it is not counted.
func (x *countsWorker) outdate(k key, v stored) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for i, p := range x.pulls {
		if p.of == (blob{k.chart, v.archive}) && time.Since(p.at) < time.Minute {
			x.pulls[i].young = true
		}
	}
	x.history = append(x.history, fmt.Sprintf("%s %s %s %s goes", time.Now().UTC().Format(clock), k.chart, v.archive, k.tag))
}

// pull downloads an archive, all of it, in one of four ways.
func (x *countsWorker) pull(k key, v stored) {
	of := blob{k.chart, v.archive}
	way := x.random.IntN(20)
	if way == 0 {
		x.pullByHelm(k, of)
		return
	}
	to := x.somewhere()
	path, what := x.wire.v2(k.chart)+"/blobs/"+v.archive, "pulled as an OCI client does"
	switch {
	case way < 8:
		// The name of an archive does not tell which of the charts with the same name it is of, its folder does.
		path, what = x.wire.classic("")+"/charts/"+k.chart+"/"+base(k.chart)+"-"+strings.ReplaceAll(k.tag, "_", "+")+".tgz", "pulled from the classic repository"
	case way < 11:
		path, what = x.wire.page("/charts/"+k.chart+"/"+k.tag+"/-/chart.tgz"), "downloaded from the page"
	}
	a, err := x.wire.send(to, http.MethodGet, path, nil)
	switch {
	case err != nil:
		x.maybe(of)
		x.did("tries that failed")
		if x.gentle && to.pod == "" {
			x.Errorf("%s: %s was broken off, although no pod was killed: %v", time.Now().UTC().Format(clock), path, err)
		}
	case a.status == http.StatusOK && digestOf(a.body) == v.archive:
		x.pulled(of, to.pod)
		x.did(what)
	case a.status >= 500 || a.status == http.StatusTooManyRequests:
		x.did("tries that failed")
	default:
		x.Errorf("%s is answered %d with %d bytes: %.200s", path, a.status, len(a.body), a.body)
	}
}

func (x *countsWorker) pulled(of blob, pod string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.pulls = append(x.pulls, pull{of: of, at: time.Now(), pod: pod})
}

// maybe notes a download that may have been counted.
func (x *countsWorker) maybe(of blob) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.downloads[of].high++
}

func (x *countsWorker) pullByHelm(k key, of blob) {
	folder, err := os.MkdirTemp(x.TempDir(), "pull-")
	if err != nil {
		x.Errorf("making a folder: %v", err)
		return
	}
	defer os.RemoveAll(folder)
	h := x.helms[x.random.IntN(len(x.helms))]
	out, err := h.run(h.environment, "", h.path, "pull", x.registry.Status.OCIURL+"/"+k.chart, "--version", strings.ReplaceAll(k.tag, "_", "+"), h.trust(), "--destination", folder)
	if err == nil {
		x.pulled(of, "")
		x.did("pulled by helm")
		return
	}
	x.maybe(of)
	x.did("tries that failed")
	if x.gentle {
		x.Errorf("%s: helm pull was broken off, although no pod was killed: %v\n%s", time.Now().UTC().Format(clock), err, out)
	}
}

// distract does what changes nothing that is told.
func (x *countsWorker) distract(k key, v stored) {
	archive := x.wire.v2(k.chart) + "/blobs/" + v.archive
	get := func(want int, method, path string, headers ...string) {
		a := x.insist(path, func(bool) (answer, error) { return x.wire.send(x.somewhere(), method, path, nil, headers...) })
		if a.status != want {
			x.Errorf("%s %s is answered %d %.200s, want %d", method, path, a.status, a.body, want)
		}
	}
	switch x.random.IntN(7) {
	case 0:
		get(http.StatusOK, http.MethodHead, archive)
		x.did("asked whether an archive is there")
	case 1:
		get(http.StatusPartialContent, http.MethodGet, archive, "Range", "bytes=0-99")
		x.did("pulled a part of an archive")
	case 2:
		get(http.StatusOK, http.MethodGet, x.wire.packages(k.chart+":"+k.tag)+"/versions")
		x.did("looked at versions")
	case 3:
		a := x.putManifest(k.chart, "", newArchive(base(k.chart), k.tag, 9), false)
		if a.status != http.StatusCreated {
			x.Errorf("a manifest with no tag is answered %d %s", a.status, a.body)
		}
		x.did("pushed with no tag")
	case 4:
		x.putArtifact([]string{k.chart, fmt.Sprintf("things/of-%d", x.number)}[x.random.IntN(2)], fmt.Sprintf("image-%d", x.number), artifact("", x.number))
	case 5:
		x.putArtifact(k.chart, strings.Replace(v.manifest, ":", "-", 1)+".sig", artifact("", x.random.IntN(3)))
	default:
		referrer := artifact(v.manifest, x.random.IntN(3))
		x.putArtifact(k.chart, digestOf(referrer), referrer)
	}
}

func (x *countsWorker) putArtifact(repository, reference string, manifest []byte) {
	x.putBlob(repository, []byte("{}"))
	a := x.insist("pushing an artifact", func(bool) (answer, error) {
		return x.wire.send(x.somewhere(), http.MethodPut, x.wire.v2(repository)+"/manifests/"+reference, manifest, "Content-Type", manifestType)
	})
	if a.status != http.StatusCreated {
		x.Errorf("an artifact as %s:%s is answered %d %s", repository, reference, a.status, a.body)
	}
	x.did("pushed what is no chart")
}

// somewhere is the Service, or one of the pods.
func (x *countsWorker) somewhere() place {
	pods := x.wire.known()
	if n := x.random.IntN(2 * len(pods)); n < len(pods) {
		return pods[n]
	}
	return x.wire.service
}

// base is the last element of a chart's path.
func base(chart string) string { return chart[strings.LastIndexByte(chart, '/')+1:] }
