// Command node runs one Kubernetes node on this machine from programs built from source, for machines that have neither
// Docker nor a cluster. The scripts beside it call it:
//
//	node up | down | status | load IMAGE.tar | start COMPONENT | stop COMPONENT
//
// It exits with 3 when this machine cannot run a node at all, and with 1 when something went wrong.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

// impossibleError says why this machine cannot run a node, in one sentence for a person.
type impossibleError string

func (e impossibleError) Error() string { return string(e) }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "cluster:", err)
	var impossible impossibleError
	if errors.As(err, &impossible) {
		os.Exit(3)
	}
	os.Exit(1)
}

// run carries out one command in the work tree that the program was started in.
func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("usage: node up | down | status | load IMAGE.tar | start COMPONENT | stop COMPONENT")
	}
	folder, err := os.Getwd()
	if err != nil {
		return err
	}
	if folder, err = filepath.EvalSymlinks(folder); err != nil {
		return err
	}
	place := layoutOf(folder)
	if args[0] == "status" {
		return status(ctx, place)
	}
	if err := checkRoot(); err != nil {
		return err
	}
	unlock, err := lock(ctx, place.lockFile())
	if err != nil {
		return err
	}
	defer unlock()
	switch {
	case args[0] == "up":
		return up(ctx, place)
	case args[0] == "down":
		return down(ctx, place)
	case args[0] == "load" && len(args) == 2:
		return load(ctx, place, args[1])
	case args[0] == "start" && len(args) == 2:
		return startOne(ctx, place, args[1])
	case args[0] == "stop" && len(args) == 2:
		return stopOne(ctx, place, args[1])
	}
	return fmt.Errorf("node %s: no such command, or wrong arguments", args[0])
}

// progress tells a waiting person what goes on.
func progress(format string, values ...any) {
	fmt.Fprintf(os.Stderr, "cluster: "+format+"\n", values...)
}
