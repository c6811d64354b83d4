package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"
)

// up brings the node up from whatever state it is in.
func up(ctx context.Context, place layout) error {
	started := time.Now()
	chosen, err := readSettings(place.in("node.json"))
	if err != nil {
		return err
	}
	if chosen != nil && healthy(ctx, place, chosen) == nil {
		progress("the node is up: KUBECONFIG=%s", place.kubeconfig())
		return nil
	}
	if err := checkMachine(); err != nil {
		return err
	}
	if err := installPackages(ctx); err != nil {
		return err
	}
	if err := checkPrivileges(ctx); err != nil {
		return err
	}
	if chosen, err = takeMachine(ctx, place, chosen); err != nil {
		return err
	}
	found, err := prepare(ctx, place)
	if err != nil {
		return err
	}
	if chosen, err = configure(ctx, place, chosen); err != nil {
		return err
	}
	if err := startAll(ctx, place, chosen, found); err != nil {
		return err
	}
	progress("the node is up after %s: KUBECONFIG=%s", time.Since(started).Round(100*time.Millisecond), place.kubeconfig())
	return nil
}

// healthy is nil when every component runs and serves, the network is there, and the node is ready.
func healthy(ctx context.Context, place layout, chosen *settings) error {
	for _, part := range components(place, chosen, programs{}) {
		if _, ok := place.records().running(part.name); !ok {
			return fmt.Errorf("%s does not run", part.name)
		}
		if err := part.ready(ctx); err != nil {
			return fmt.Errorf("%s does not serve: %w", part.name, err)
		}
	}
	if _, err := os.Stat("/sys/class/net/" + bridgeName); err != nil {
		return err
	}
	server, err := newAPI(place, chosen)
	if err != nil {
		return err
	}
	return server.nodeReady(ctx)
}

// takeMachine makes this work tree the owner of the machine's one node. What an earlier node left is swept away, unless
// it is this work tree's own and can go on. The result is the settings that can go on, or nil.
func takeMachine(ctx context.Context, place layout, chosen *settings) (*settings, error) {
	owner, err := place.owner()
	if err != nil {
		return nil, err
	}
	foreign := owner != "" && owner != place.root
	if foreign && anyRunning(place) {
		if _, err := os.Stat(layoutOf(owner).in("node.json")); err == nil {
			return nil, fmt.Errorf("the node of %s runs on this machine, and there is room for one; end it with %s/hack/cluster/down", owner, owner)
		}
	}
	if foreign || owner != "" && chosen == nil || owner == "" && bridgeIsThere() {
		progress("sweeping away what an earlier node left")
		left := place
		if foreign {
			left = layoutOf(owner)
		}
		if err := sweep(ctx, left); err != nil {
			return nil, err
		}
		owner = ""
	}
	if owner != "" {
		return chosen, nil
	}
	if err := checkNoOtherKubelet(); err != nil {
		return nil, err
	}
	if err := recordMachine(place); err != nil {
		return nil, err
	}
	return chosen, writeFile(place.ownerFile(), []byte(place.root+"\n"))
}

func anyRunning(place layout) bool {
	for _, name := range startOrder {
		if _, ok := place.records().running(name); ok {
			return true
		}
	}
	return false
}

func bridgeIsThere() bool {
	_, err := os.Stat("/sys/class/net/" + bridgeName)
	return err == nil
}

// prepare builds programs and the image that every pod needs.
func prepare(ctx context.Context, place layout) (programs, error) {
	progress("finding the node's programs; what is not in the cache is built, which takes minutes")
	found, err := findPrograms(ctx, place)
	if err != nil {
		return nil, err
	}
	if err := buildOwn(ctx, place); err != nil {
		return nil, err
	}
	return found, command(ctx, found["image"], "--tag", pauseImage, "--out", place.in("pause.tar"), place.in("bin", "pause"))
}

// configure chooses addresses where none are chosen yet, makes the network, and writes keys and configuration.
func configure(ctx context.Context, place layout, chosen *settings) (*settings, error) {
	fresh := chosen == nil
	if fresh {
		known, err := knownNetworks()
		if err != nil {
			return nil, err
		}
		if chosen, err = chooseRange(known); err != nil {
			return nil, err
		}
	}
	if err := makeNetwork(ctx, chosen); err != nil {
		return nil, err
	}
	if !anyRunning(place) {
		if err := chosen.choosePorts(); err != nil {
			return nil, err
		}
	}
	if fresh {
		if err := os.RemoveAll(place.in("pki")); err != nil {
			return nil, err
		}
		if err := makeCertificates(place.in("pki"), chosen); err != nil {
			return nil, err
		}
	}
	for _, folder := range []string{place.kubelet(), place.volumes()} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return nil, err
		}
	}
	if err := writeConfiguration(place, chosen); err != nil {
		return nil, err
	}
	return chosen, chosen.write(place.in("node.json"))
}

// startAll starts what does not run, in an order in which each finds what it needs.
func startAll(ctx context.Context, place layout, chosen *settings, found programs) error {
	parts := components(place, chosen, found)
	if err := parts["containerd"].launch(place, found); err != nil {
		return err
	}
	for _, name := range []string{"etcd", "kube-apiserver", "containerd"} {
		if err := parts[name].start(ctx, place, found); err != nil {
			return err
		}
	}
	if err := importImage(ctx, place, found, place.in("pause.tar")); err != nil {
		return err
	}
	kubectl := []string{"--kubeconfig", place.kubeconfig(), "apply", "--server-side", "--force-conflicts", "-f", place.in("config", "manifests.yaml")}
	if err := poll(ctx, time.Minute, func(ctx context.Context) error { return command(ctx, found["kubectl"], kubectl...) }); err != nil {
		return err
	}
	for _, name := range startOrder {
		if err := parts[name].launch(place, found); err != nil {
			return err
		}
	}
	for _, name := range startOrder {
		if err := parts[name].await(ctx, place); err != nil {
			return err
		}
	}
	return awaitNode(ctx, place, chosen)
}

// awaitNode waits until a pod that is made now can start.
func awaitNode(ctx context.Context, place layout, chosen *settings) error {
	server, err := newAPI(place, chosen)
	if err != nil {
		return err
	}
	progress("waiting for the node to become ready")
	if err := poll(ctx, 2*time.Minute, server.nodeReady); err != nil {
		return fmt.Errorf("%w\n--- the end of %s:\n%s", err, place.log("kubelet"), tail(place.log("kubelet"), 25))
	}
	return poll(ctx, time.Minute, func(ctx context.Context) error {
		return server.do(ctx, http.MethodGet, "/api/v1/namespaces/default/serviceaccounts/default", nil, nil)
	})
}

func importImage(ctx context.Context, place layout, found programs, path string) error {
	return command(ctx, found["ctr"], "--address", place.socket(), "--namespace", "k8s.io", "images", "import", "--local", path)
}

// load imports an image's tar into the node.
func load(ctx context.Context, place layout, path string) error {
	if _, ok := place.records().running("containerd"); !ok {
		return errors.New("no node is up here; start it with hack/cluster/up")
	}
	found, err := findPrograms(ctx, place)
	if err != nil {
		return err
	}
	return importImage(ctx, place, found, path)
}

// startOne starts one component of a node that was set up before.
func startOne(ctx context.Context, place layout, name string) error {
	part, found, err := one(ctx, place, name)
	if err != nil {
		return err
	}
	return part.start(ctx, place, found)
}

// stopOne stops one component and leaves all others alone.
func stopOne(ctx context.Context, place layout, name string) error {
	part, _, err := one(ctx, place, name)
	if err != nil {
		return err
	}
	return place.records().end(ctx, name, part.patience)
}

func one(ctx context.Context, place layout, name string) (component, programs, error) {
	chosen, err := readSettings(place.in("node.json"))
	if err != nil {
		return component{}, nil, err
	}
	if chosen == nil {
		return component{}, nil, errors.New("no node was set up here; start it with hack/cluster/up")
	}
	found, err := findPrograms(ctx, place)
	if err != nil {
		return component{}, nil, err
	}
	part, ok := components(place, chosen, found)[name]
	if !ok {
		return component{}, nil, fmt.Errorf("the node has no component %q; it has %v", name, startOrder)
	}
	return part, found, nil
}
