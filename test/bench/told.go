package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/wire"
	"github.com/chartroom-dev/chartroom/test/bench/load"
)

// webhook measures how long after a push, as helm makes it, a receiver on this machine has been told of it.
func webhook(ctx context.Context, b *bench) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	arrivals := make(chan arrival, 1000)
	receiver := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var event struct {
			Data struct {
				Tag string `json:"tag"`
			} `json:"data"`
		}
		if json.NewDecoder(r.Body).Decode(&event) == nil {
			arrivals <- arrival{event.Data.Tag, time.Now()}
		}
	})}
	go func() { _ = receiver.Serve(listener) }() // Until it is closed.
	defer receiver.Close()
	s, err := b.fresh(ctx, ours, b.disk, "--allow-egress-cidrs", "127.0.0.0/8",
		"--notifications", fmt.Sprintf(`[{name: bench, url: "http://%s/", format: cloudevents}]`, listener.Addr()))
	if err != nil {
		return err
	}
	if err := seedSmall(ctx, s, "small", 20*b.rounds, 1); err != nil {
		return err
	}
	for range 20 * b.rounds {
		if _, err := awaitArrival(ctx, arrivals, smallVersion(0)); err != nil {
			return err
		}
	}
	var took []float64
	_, err = b.afterPushes(ctx, s, func(ctx context.Context, _ *load.Conn, pushed time.Time) error {
		at, err := awaitArrival(ctx, arrivals, fmt.Sprintf("%d.%d.0", b.pushed, len(took)))
		// The receiver may be told before the client has read that the push is done.
		took = append(took, max(0, millis(at.Sub(pushed))))
		return err
	})
	if err != nil {
		return err
	}
	b.report.target("push to webhook, on disk, the worst", slices.Max(took), below(1000, "ms"), medianAnd(took))
	return nil
}

// arrival is when a receiver was told of a tag.
type arrival struct {
	tag string
	at  time.Time
}

func awaitArrival(ctx context.Context, arrivals <-chan arrival, tag string) (time.Time, error) {
	select {
	case a := <-arrivals:
		if a.tag != tag {
			return a.at, fmt.Errorf("the receiver was told of %s in place of %s", a.tag, tag)
		}
		return a.at, nil
	case <-time.After(startPatience):
		return time.Time{}, fmt.Errorf("the receiver was not told of %s", tag)
	case <-ctx.Done():
		return time.Time{}, ctx.Err()
	}
}

// told measures how long after a push the operator is told on the admin port, and, where there is a cluster, has the e2e suite
// measure when it is in the status.
func told(ctx context.Context, b *bench) error {
	cert, key, err := b.certificate()
	if err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return err
	}
	// The first start makes the token, which a server with an operator waits for.
	s, err := b.fresh(ctx, ours, b.disk)
	if err != nil {
		return err
	}
	if err := seedSmall(ctx, s, "small", 20*b.rounds, 1); err != nil {
		return err
	}
	s.stop()
	admin, err := freeAddress(ctx)
	if err != nil {
		return err
	}
	if s, err = b.start(ctx, ours, s.dir, "--access-state", s.dir+".told", "--admin-listen", admin, "--admin-cert", cert, "--admin-key", key, "--admin-client-ca", cert); err != nil {
		return err
	}
	// It opens behind the port of the registry.
	for started := time.Now(); !answers(ctx, admin); time.Sleep(time.Millisecond) {
		if time.Since(started) > startPatience {
			return errors.New("the admin port does not open")
		}
	}
	trust := tlsConfig()
	trust.Certificates = []tls.Certificate{pair}
	operator := &operator{http.Client{Transport: &http.Transport{TLSClientConfig: trust}}, "https://" + admin + wire.PathInventory}
	asking, end := context.WithCancel(ctx)
	defer end()
	heard := operator.listen(asking)
	known := int64(0)
	// hear waits until the operator knows of so many versions, and returns when it did.
	hear := func(versions int64) (at time.Time, err error) {
		patience := time.After(startPatience)
		for known < versions {
			select {
			case n := <-heard:
				if n.err != nil {
					return at, n.err
				}
				at, known = n.at, n.versions
			case <-patience:
				return at, fmt.Errorf("the admin port tells of %d versions, and not of %d", known, versions)
			}
		}
		return at, nil
	}
	if _, err := hear(int64(20 * b.rounds)); err != nil {
		return err
	}
	var took []float64
	_, err = b.afterPushes(ctx, s, func(_ context.Context, _ *load.Conn, pushed time.Time) error {
		at, err := hear(known + 1)
		took = append(took, max(0, millis(at.Sub(pushed))))
		return err
	})
	if err != nil {
		return err
	}
	b.report.target("push to the inventory on the admin port, the worst", slices.Max(took), below(1000, "ms"), medianAnd(took)+"; it is told 200 ms late, for what comes with it")
	b.status(ctx)
	return nil
}

// operator asks an admin port for the inventory, as the operator does.
type operator struct {
	http.Client
	url string
}

// heard is what the operator was told, and when.
type heard struct {
	at       time.Time
	versions int64
	err      error
}

// listen asks again and again until ctx ends or something fails.
func (o *operator) listen(ctx context.Context) <-chan heard {
	all := make(chan heard)
	go func() {
		for etag, failed := "", false; !failed; {
			next, i, err := o.ask(ctx, etag)
			etag, failed = next, err != nil
			select {
			case all <- heard{time.Now(), i.Totals.Versions, err}:
			case <-ctx.Done():
				return
			}
		}
	}()
	return all
}

// ask waits for an inventory that does not have the ETag known.
func (o *operator) ask(ctx context.Context, known string) (etag string, i wire.Inventory, err error) {
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, o.url, nil)
		if err != nil {
			return "", i, err
		}
		request.Header.Set("If-None-Match", known)
		answer, err := o.Do(request)
		if err != nil {
			return "", i, err
		}
		body, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		switch {
		case err != nil:
			return "", i, err
		case answer.StatusCode == http.StatusOK:
			return answer.Header.Get("ETag"), i, json.Unmarshal(body, &i)
		case answer.StatusCode != http.StatusNotModified:
			return "", i, fmt.Errorf("the admin port answers %d: %.300s", answer.StatusCode, body)
		}
	}
}

// statusMeasured is what the e2e suite prints.
var statusMeasured = regexp.MustCompile(`MEASURED from the end of helm push to the status, in (\d+) pushes: median (\d+) ms, worst (\d+) ms`)

// status has the e2e suite measure when a push is in the status of a HelmRegistry. Where it cannot, that is said.
func (b *bench) status(ctx context.Context) {
	const work = "push to status, in a cluster"
	measured, err := b.measureStatus(ctx)
	if err != nil {
		b.report.note(work, ours, "not measured here: "+err.Error()+"; the e2e suite measures and prints it (hack/test e2e)")
		return
	}
	var n, median, worst float64
	if _, err := fmt.Sscan(strings.Join(measured[1:], " "), &n, &median, &worst); err != nil {
		return // The expression has digits alone.
	}
	b.report.target(work+", the worst", worst, below(2000, "ms"), fmt.Sprintf("median of %g %s ms", n, short(median)))
}

func (b *bench) measureStatus(ctx context.Context) ([]string, error) {
	if _, err := os.Stat(b.cluster); err != nil {
		return nil, errors.New("there is no cluster")
	}
	helm, err := exec.CommandContext(ctx, "hack/tool", "helm-v4").Output()
	if err != nil {
		return nil, fmt.Errorf("building helm: %w", err)
	}
	// #nosec G204 -- the arguments are our own.
	test := exec.CommandContext(ctx, "go", "test", "-tags", "e2e", "-count=1", "-v", "-run", "^TestInventoryFollowsPushes$", "./test/e2e")
	test.Env = append(os.Environ(), "KUBECONFIG="+b.cluster, "HELMS="+strings.TrimSpace(string(helm)))
	out, err := test.CombinedOutput()
	if measured := statusMeasured.FindStringSubmatch(string(out)); measured != nil {
		return measured, nil
	}
	return nil, fmt.Errorf("the e2e suite measured nothing in the cluster of %s (%v)", b.cluster, err)
}
