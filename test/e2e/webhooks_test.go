//go:build e2e

package e2e

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const hookSecret = "a secret that both sides know"

// hooks are receivers of events, one at each path of a server on the node.
type hooks struct {
	*world
	address string

	mu sync.Mutex
	// closed answers that it cannot take anything now.
	closed bool
	got    map[string][]hook
}

// hook is what a receiver was sent.
type hook struct {
	at     time.Time
	header http.Header
	body   []byte
}

// hooks starts a server on the node, whose address the operator of the tests allows.
func (w *world) hooks() *hooks {
	w.Helper()
	h := &hooks{world: w, got: map[string][]hook{}}
	node, err := nodeAddress(w.Context(), w.Client)
	w.must(err, "looking for the node")
	listener, err := net.Listen("tcp", net.JoinHostPort(node, "0"))
	w.must(err, "listening on the node")
	h.address = "http://" + listener.Addr().String()
	server := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(listener) }() // It ends with the test.
	w.Cleanup(func() { server.Close() })
	return h
}

func (h *hooks) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	at := time.Now()
	body, err := io.ReadAll(r.Body)
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil || h.closed {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	name := strings.TrimPrefix(r.URL.Path, "/")
	// It may come twice, with the same id.
	if !slices.ContainsFunc(h.got[name], func(before hook) bool { return before.id() == r.Header.Get("X-Chartroom-Delivery") }) {
		h.got[name] = append(h.got[name], hook{at, r.Header.Clone(), body})
	}
}

func (h hook) id() string { return h.header.Get("X-Chartroom-Delivery") }

func (h *hooks) close(closed bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = closed
}

// of is what a receiver got, in order.
func (h *hooks) of(name string) []hook {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.got[name])
}

// told is what an event says, whatever its format is.
type told struct{ event, subject, digest, previous string }

// dialects are how receivers know who sends, verified as docs/webhooks.md describes it, and what their format says.
var dialects = []struct {
	name   string
	format v1alpha1.NotificationFormat
	auth   *v1alpha1.NotificationAuth
	verify func(h *hooks, got hook) error
	read   func(body []byte) (told, error)
}{
	{"buildkite", "buildkite", signed(""), func(_ *hooks, got hook) error {
		parts := map[string]string{}
		for part := range strings.SplitSeq(got.header.Get("X-Buildkite-Signature"), ",") {
			name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
			parts[name] = value
		}
		seconds, err := strconv.ParseInt(parts["timestamp"], 10, 64)
		if err != nil || time.Since(time.Unix(seconds, 0)).Abs() > 5*time.Minute || got.header.Get("X-Buildkite-Event") != got.header.Get("X-Chartroom-Event") {
			return fmt.Errorf("its time is %q, its event %q (%w)", parts["timestamp"], got.header.Get("X-Buildkite-Event"), err)
		}
		return equalHMAC(parts["signature"], parts["timestamp"]+"."+string(got.body))
	}, readBuildkite},
	{"generic", "flux", signed(""), func(_ *hooks, got hook) error {
		return equalHMAC(strings.TrimPrefix(got.header.Get("X-Signature"), "sha256="), string(got.body))
	}, readCloudEvent},
	{"github", "cloudevents", signed("github"), func(_ *hooks, got hook) error {
		return equalHMAC(strings.TrimPrefix(got.header.Get("X-Hub-Signature-256"), "sha256="), string(got.body))
	}, readCloudEvent},
	{"harbor", "harbor", &v1alpha1.NotificationAuth{Header: &v1alpha1.NotificationHeader{SecretRef: hookSecretRef}}, func(_ *hooks, got hook) error {
		if got.header.Get("Authorization") != hookSecret {
			return errors.New("it does not have the secret")
		}
		return nil
	}, readHarbor},
	{"identity", "cloudevents", &v1alpha1.NotificationAuth{ServiceAccountToken: &v1alpha1.NotificationToken{Audience: "receiver"}}, (*hooks).verifyIdentity, readCloudEvent},
	{"open", "cloudevents", nil, func(_ *hooks, got hook) error {
		if got.header.Get("Authorization") != "" {
			return errors.New("it has credentials, which nobody asked for")
		}
		return nil
	}, readCloudEvent},
}

var hookSecretRef = v1alpha1.SecretEntryReference{LocalObjectReference: v1alpha1.LocalObjectReference{Name: "hook"}}

func signed(dialect v1alpha1.NotificationDialect) *v1alpha1.NotificationAuth {
	return &v1alpha1.NotificationAuth{HMAC: &v1alpha1.NotificationHMAC{Dialect: dialect, SecretRef: hookSecretRef}}
}

func equalHMAC(got, content string) error {
	sum := hmac.New(sha256.New, []byte(hookSecret))
	sum.Write([]byte(content))
	if want := hex.EncodeToString(sum.Sum(nil)); got != want {
		return fmt.Errorf("its signature is %q, want %q", got, want)
	}
	return nil
}

// verifyIdentity asks the API server whose token it is, as a receiver in the cluster does.
func (h *hooks) verifyIdentity(got hook) error {
	token, _ := strings.CutPrefix(got.header.Get("Authorization"), "Bearer ")
	review := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{"receiver"}}}
	if err := h.Create(h.Context(), review); err != nil {
		return err
	}
	if want := "system:serviceaccount:" + h.namespace + ":default"; !review.Status.Authenticated || review.Status.User.Username != want {
		return fmt.Errorf("the token is judged %+v, want that of %s", review.Status, want)
	}
	return nil
}

func readCloudEvent(body []byte) (told, error) {
	var e struct {
		SpecVersion, ID, Source, Type, Subject string
		Data                                   struct{ Digest, PreviousDigest, Reference string }
	}
	err := json.Unmarshal(body, &e)
	if err == nil && (e.SpecVersion != "1.0" || e.ID == "" || e.Source == "" || !strings.HasSuffix(e.Data.Reference, "/"+e.Subject)) {
		err = fmt.Errorf("%s is no CloudEvent of a chart", body)
	}
	return told{strings.TrimPrefix(e.Type, "dev.chartroom."), e.Subject, e.Data.Digest, e.Data.PreviousDigest}, err
}

func readBuildkite(body []byte) (told, error) {
	var e struct {
		Event   string
		Package struct {
			Name, Tag, Digest string
			Previous          string `json:"previous_digest"`
		}
	}
	err := json.Unmarshal(body, &e)
	return told{e.Event, e.Package.Name + ":" + e.Package.Tag, e.Package.Digest, e.Package.Previous}, err
}

func readHarbor(body []byte) (told, error) {
	var e struct {
		Type string
		Data struct {
			Resources  []struct{ Digest, Tag string }
			Repository struct {
				FullName string `json:"repo_full_name"`
			}
		} `json:"event_data"`
	}
	if err := json.Unmarshal(body, &e); err != nil || len(e.Data.Resources) != 1 {
		return told{}, fmt.Errorf("%s: %w", body, err)
	}
	_, chart, _ := strings.Cut(e.Data.Repository.FullName, "/charts/")
	return told{e.Type, chart + ":" + e.Data.Resources[0].Tag, e.Data.Resources[0].Digest, ""}, nil
}

// in is the event as a format tells it.
func (e told) in(format v1alpha1.NotificationFormat) told {
	if format != "harbor" {
		return e
	}
	if e.event == "package.deleted" {
		return told{"DELETE_ARTIFACT", e.subject, e.digest, ""}
	}
	return told{"PUSH_ARTIFACT", e.subject, e.digest, ""}
}

// receive requires that each receiver has got these events and no others, in this order for each chart, from who it knows.
func (h *hooks) receive(events []told) {
	h.Helper()
	for _, d := range dialects {
		h.eventually(fmt.Sprintf("%d events at %s", len(events), d.name), func(context.Context) error {
			if got := h.of(d.name); len(got) < len(events) {
				return fmt.Errorf("there are %d", len(got))
			}
			return nil
		})
		want, is := map[string][]told{}, map[string][]told{}
		for _, e := range events {
			chart, _, _ := strings.Cut(e.subject, ":")
			want[chart] = append(want[chart], e.in(d.format))
		}
		for _, got := range h.of(d.name) {
			if err := d.verify(h, got); err != nil {
				h.Errorf("%s cannot tell who sent %s: %v", d.name, got.id(), err)
			}
			e, err := d.read(got.body)
			if err != nil {
				h.Errorf("%s cannot read what it was sent: %v", d.name, err)
			}
			chart, _, _ := strings.Cut(e.subject, ":")
			is[chart] = append(is[chart], e)
		}
		for _, chart := range union(want, is) {
			if !slices.Equal(want[chart], is[chart]) {
				h.Errorf("%s was told of %s\n%+v, want\n%+v", d.name, chart, is[chart], want[chart])
			}
		}
	}
}

// If this fails, Flux, Argo CD or a job do not hear of a chart, cannot tell who says it, or a registry can be made to call
// addresses inside the cluster.
func TestWebhooks(t *testing.T) {
	w := newWorld(t)
	h := w.hooks()
	w.must(w.Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "hook"}, Data: map[string][]byte{"token": []byte(hookSecret)},
	}), "creating the Secret")
	r := w.registry("charts", func(r *v1alpha1.HelmRegistry) {
		r.Spec.Tags.Mutable = []string{"*-dev"}
		for _, d := range dialects {
			r.Spec.Notifications = append(r.Spec.Notifications, v1alpha1.Notification{Name: d.name, URL: h.address + "/" + d.name, Format: d.format, Auth: d.auth})
		}
		// Two that nobody has allowed: the registry's own Service, whatever its name is, with TLS and without.
		for _, scheme := range []string{"http", "https"} {
			r.Spec.Notifications = append(r.Spec.Notifications, v1alpha1.Notification{Name: "inside-" + scheme, URL: scheme + "://charts." + w.namespace + ".svc:443/hook", Format: "cloudevents"})
		}
	})
	_, password := w.token("charts", "ci", []v1alpha1.Scope{v1alpha1.ScopeRead, v1alpha1.ScopeWrite, v1alpha1.ScopeDelete})
	line := w.wire(r, password)

	var events []told
	standing := map[string]string{}
	push := func(chart, version string, variant int) time.Time {
		t.Helper()
		a, err := line.upload(line.service, line.packages("")+"?to="+chart, newArchive(base(chart), version, variant))
		done := time.Now()
		if err != nil || a.status/100 != 2 {
			w.Fatalf("publishing: %d %s %v", a.status, a.body, err)
		}
		event, subject := "package.created", chart+":"+version
		if standing[subject] != "" {
			event = "tag.moved"
		}
		events = append(events, told{event, subject, a.digest(), standing[subject]})
		standing[subject] = a.digest()
		return done
	}
	ask := func(method, path string) answer {
		t.Helper()
		a, err := line.send(line.service, method, path, nil)
		if err != nil || a.status/100 != 2 {
			w.Fatalf("%s %s: %d %s %v", method, path, a.status, a.body, err)
		}
		return a
	}

	helm := w.helm(newestHelm(t), "charts").loggedIn(r, password)
	pushed := helm.push(r, helm.chart("app", "1.0.0", "x", r.Status.Image))
	standing["app:1.0.0"] = manifestDigest.FindString(pushed)
	events = append(events, told{"package.created", "app:1.0.0", standing["app:1.0.0"], ""})
	push("app", "1.1.0-dev", 0)
	push("app", "1.1.0-dev", 1)
	ask(http.MethodPost, line.packages("app:1.0.0")+"/copy?to=stable/app")
	events = append(events, told{"package.copied", "stable/app:1.0.0", standing["app:1.0.0"], ""})
	ask(http.MethodDelete, line.packages("app:1.0.0"))
	events = append(events, told{"package.deleted", "app:1.0.0", standing["app:1.0.0"], ""})
	h.receive(events)

	const pushes = 20
	var took []time.Duration
	for i := range pushes {
		before := len(h.of("open"))
		done := push("web", fmt.Sprintf("1.0.%d", i), 0)
		w.eventually("the event", func(context.Context) error {
			if len(h.of("open")) == before {
				return errors.New("it is not there")
			}
			return nil
		})
		took = append(took, max(0, h.of("open")[before].at.Sub(done)))
	}
	slices.Sort(took)
	t.Logf("MEASURED from the answer to a push to the webhook, in %d pushes: median %d ms, worst %d ms", pushes, took[pushes/2].Milliseconds(), took[pushes-1].Milliseconds())

	w.refuses("inside-http", "nothing is sent elsewhere without TLS")
	w.refuses("inside-https", "is not a public one, and not in a network that the administrator allowed")

	// What is measured is; what follows takes long, and has time.
	t.Parallel()

	// Neither what receivers have refused until the server is killed, nor what was pushed the moment before, is lost.
	h.close(true)
	push("app", "2.0.0", 0)
	w.refuses("open", "503")
	push("app", "2.1.0", 0)
	killed := w.podReady("charts")
	w.kill(killed)
	h.close(false)
	back := time.Now()
	w.restarted(killed)
	h.receive(events)
	t.Logf("MEASURED from a SIGKILL between a push and its webhooks to the last of them: %d ms", time.Since(back).Milliseconds())
}

// refuses waits until the log of a pod tells of a receiver that is not told.
func (w *world) refuses(receiver, problem string) {
	w.Helper()
	w.eventually("the log to say that "+receiver+" is not told", func(ctx context.Context) error {
		out, err := exec.CommandContext(ctx, w.kubectl, "--kubeconfig", kubeconfig(w.T), "-n", w.namespace, "logs", "deployment/charts").CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, receiver) && strings.Contains(line, problem) {
				return nil
			}
		}
		return fmt.Errorf("it does not:\n%s", excerpt(string(out), receiver))
	})
}
