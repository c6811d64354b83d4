package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"text/tabwriter"
)

// status prints one line per component and whether the node is ready. It fails when anything is not as it should be.
func status(ctx context.Context, place layout) error {
	chosen, err := readSettings(place.in("node.json"))
	if err != nil {
		return err
	}
	if chosen == nil {
		return errors.New("no node was set up here; start it with hack/cluster/up")
	}
	found, err := findPrograms(ctx, place)
	if err != nil {
		return err
	}
	parts := components(place, chosen, found)
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "COMPONENT\tSTATE\tPROCESS\tADDRESS\tVERSION")
	whole := true
	for _, name := range startOrder {
		part := parts[name]
		state, process := "up", "-"
		if running, ok := place.records().running(name); !ok {
			state = "down"
		} else {
			process = fmt.Sprint(running.pid)
			if part.ready(ctx) != nil {
				state = "not serving"
			}
		}
		whole = whole && state == "up"
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", name, state, process, part.address, part.versionOf(ctx))
	}
	server, err := newAPI(place, chosen)
	if err != nil {
		return err
	}
	ready := "ready"
	if err := server.nodeReady(ctx); err != nil {
		ready, whole = err.Error(), false
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Printf("node %s (%s): %s\n", nodeName, chosen.Address, ready)
	if !whole {
		return errors.New("the node is not whole; hack/cluster/up repairs it")
	}
	return nil
}
