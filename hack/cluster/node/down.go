package main

import (
	"context"
	"fmt"
	"os"
	"time"
)

// down ends the node and removes every trace of it, whatever state it is in.
func down(ctx context.Context, place layout) error {
	owner, err := place.owner()
	if err != nil {
		return err
	}
	if owner != "" && owner != place.root {
		if _, err := os.Stat(layoutOf(owner).state); err == nil {
			progress("there is none of this work tree; the node on this machine is that of %s", owner)
			return removeTree(place.state)
		}
	}
	chosen, err := readSettings(place.in("node.json"))
	if err != nil {
		progress("%v", err)
	}
	if owner == place.root && chosen != nil {
		endWorkloads(ctx, place, chosen)
	}
	if owner != "" || bridgeIsThere() {
		progress("stopping the node")
		left := place
		if owner != "" {
			left = layoutOf(owner)
		}
		if err := sweep(ctx, left); err != nil {
			return err
		}
	}
	if err := removeTree(place.state); err != nil {
		return err
	}
	progress("nothing of the node is left")
	return os.Remove(place.lockFile())
}

// endWorkloads lets the kubelet take down the pods, so that mounts and addresses are given back in order. What it does
// not manage in time, the sweep does: nothing here is a failure.
func endWorkloads(ctx context.Context, place layout, chosen *settings) {
	for _, name := range []string{"kube-apiserver", "kubelet", "containerd"} {
		if _, ok := place.records().running(name); !ok {
			return
		}
	}
	server, err := newAPI(place, chosen)
	if err != nil {
		return
	}
	// Nobody may make new pods meanwhile.
	for _, name := range []string{"kube-scheduler", "kube-controller-manager"} {
		if err := place.records().end(ctx, name, 20*time.Second); err != nil {
			progress("%v", err)
		}
	}
	progress("ending the pods")
	deleted := map[pod]bool{}
	err = poll(ctx, 30*time.Second, func(ctx context.Context) error {
		pods, err := server.livePods(ctx)
		if err != nil {
			return err
		}
		for _, item := range pods {
			if !deleted[item] && server.deletePod(ctx, item) == nil {
				deleted[item] = true
			}
		}
		if len(pods) > 0 {
			return fmt.Errorf("%d pods are left", len(pods))
		}
		return nil
	})
	if err != nil {
		progress("%v: killing them", err)
	}
}
