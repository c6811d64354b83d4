package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/chartroom-dev/chartroom/test/bench/load"
)

const (
	// payload and description make a chart of 50 KB with a configuration of 4 KB.
	payload, description = 50_000, 3900
	// forever bounds what is bounded by a count.
	forever = 10 * time.Minute
	// seeders push at once where it is not measured.
	seeders = 4
)

// pullCharts are those that are pulled: 100 charts of so many versions each.
func (b *bench) pullCharts() ([]load.Chart, error) {
	if b.charts != nil {
		return b.charts, nil
	}
	maker, err := load.NewMaker(0)
	if err != nil {
		return nil, err
	}
	for i := range b.sizes.charts {
		c, err := maker.Make(folder, fmt.Sprintf("pull-%03d", i%100), fmt.Sprintf("1.%d.0", i/100), payload, description)
		if err != nil {
			return nil, err
		}
		b.charts = append(b.charts, c)
	}
	return b.charts, nil
}

// random makes charts that nobody has made before.
func random() (*load.Maker, error) {
	var seed [1]byte
	_, _ = rand.Read(seed[:])
	return load.NewMaker(seed[0])
}

// seed pushes charts without measuring.
func seed(ctx context.Context, s *server, charts []load.Chart) error {
	_, err := load.Run(ctx, &s.Target, seeders, load.Bounds{Operations: len(charts), Time: forever},
		func(ctx context.Context, c *load.Conn, i int) error { return s.Seed(ctx, c, charts[i]) })
	if err != nil {
		return fmt.Errorf("filling %s: %w", s.name, err)
	}
	return nil
}

// seedSmall pushes versions of small charts: version j of chart i, for all i and j.
func seedSmall(ctx context.Context, s *server, name string, charts, versions int) error {
	makers := make(chan *load.Maker, seeders)
	for i := range seeders {
		maker, err := load.NewMaker(byte(1 + i))
		if err != nil {
			return err
		}
		makers <- maker
	}
	_, err := load.Run(ctx, &s.Target, seeders, load.Bounds{Operations: charts * versions, Time: forever},
		func(ctx context.Context, c *load.Conn, i int) error {
			maker := <-makers
			chart, err := maker.Make(folder, smallName(name, i%charts), smallVersion(i/charts), 8, 8)
			makers <- maker
			if err != nil {
				return err
			}
			return s.Seed(ctx, c, chart)
		})
	if err != nil {
		return fmt.Errorf("filling %s: %w", s.name, err)
	}
	return nil
}

func smallName(name string, i int) string { return fmt.Sprintf("%s-%04d", name, i) }
func smallVersion(j int) string           { return fmt.Sprintf("0.%d.0", j) }

// store makes a store of ours in memory that holds so many versions, 100 of each chart, and the charts that are pulled.
// It is made once; nobody serves it yet.
func (b *bench) store(ctx context.Context, versions int) (string, error) {
	if dir := b.stores[versions]; dir != "" {
		return dir, nil
	}
	charts, err := b.pullCharts()
	if err != nil {
		return "", err
	}
	s, err := b.fresh(ctx, ours, b.memory)
	if err != nil {
		return "", err
	}
	defer s.stop()
	started := time.Now()
	if err := seedSmall(ctx, s, "small", versions/100, 100); err != nil {
		return "", err
	}
	if err := seed(ctx, s, charts); err != nil {
		return "", err
	}
	fmt.Fprintf(os.Stderr, "a store of %d versions was filled in %.0f s\n", versions+len(charts), time.Since(started).Seconds())
	b.stores[versions] = s.dir
	return s.dir, nil
}

// serveStore serves a store anew.
func (b *bench) serveStore(ctx context.Context, versions int, more ...string) (*server, error) {
	dir, err := b.store(ctx, versions)
	if err != nil {
		return nil, err
	}
	return b.start(ctx, ours, dir, more...)
}

// onDisk copies a store, with its state, from memory to the disk.
func (b *bench) onDisk(dir string) (string, error) {
	place, err := os.MkdirTemp(b.disk, "copy-")
	if err != nil {
		return "", err
	}
	target := filepath.Join(place, "data")
	for _, part := range []string{"", ".state"} {
		if err := os.CopyFS(target+part, os.DirFS(dir+part)); err != nil {
			return "", fmt.Errorf("copying a store to the disk: %w", err)
		}
	}
	return target, nil
}
