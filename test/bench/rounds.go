package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/chartroom-dev/chartroom/test/bench/load"
)

// sample is what one run measured.
type sample struct {
	// rate is in operations per second.
	rate     float64
	p50, p99 time.Duration
	// cpu is the server's CPU time per operation.
	cpu time.Duration
	// others is the part of the machine, from 0 to 1, that other processes than server and load took.
	others float64
}

// measure runs f beside the clocks.
func measure(s *server, f func() (load.Result, error)) (sample, error) {
	pid := s.process.Process.Pid
	before, err := clocks(pid)
	if err != nil {
		return sample{}, err
	}
	result, err := f()
	if err != nil {
		return sample{}, fmt.Errorf("%s: %w", s.name, err)
	}
	after, err := clocks(pid)
	if err != nil {
		return sample{}, err
	}
	served := after[0] - before[0]
	others := after[2] - before[2] - served - (after[1] - before[1])
	return sample{
		rate: result.Rate(), p50: result.P50, p99: result.P99,
		cpu:    served / time.Duration(max(result.Operations, 1)),
		others: max(0, others.Seconds()/result.Elapsed.Seconds()/float64(runtime.NumCPU())),
	}, nil
}

// clocks are the CPU times of the server, of this process, and of the machine.
func clocks(pid int) (all [3]time.Duration, err error) {
	if all[0], err = processTime(pid); err != nil {
		return all, err
	}
	if all[1], err = processTime(os.Getpid()); err != nil {
		return all, err
	}
	all[2], err = machineTime()
	return all, err
}

// samples has those of each server, by its name, one for each round.
type samples map[string][]sample

// interleave lets the servers do the same work in turn, and reports their figures.
func (b *bench) interleave(ctx context.Context, work string, servers []*server, do func(ctx context.Context, s *server, round int) (load.Result, error)) (samples, error) {
	all := samples{}
	for round := range b.rounds {
		for _, s := range servers {
			runtime.GC()
			one, err := measure(s, func() (load.Result, error) { return do(ctx, s, round) })
			if err != nil {
				return nil, err
			}
			all[s.name] = append(all[s.name], one)
			fmt.Fprintf(os.Stderr, "%-44s %-22s %10.1f/s  cpu %8.1f µs  p50 %8.3f ms  others %2.0f %%\n",
				work, s.name, one.rate, micros(one.cpu), millis(one.p50), 100*one.others)
		}
	}
	for _, s := range servers {
		b.report.figure(work, s.name, all[s.name])
	}
	return all, nil
}

// ratio is the median of one's figure over another's in the same round.
func (s samples) ratio(one, other string, of func(sample) float64) float64 {
	var ratios []float64
	for i := range min(len(s[one]), len(s[other])) {
		ratios = append(ratios, of(s[one][i])/of(s[other][i]))
	}
	return median(ratios)
}

func rate(s sample) float64 { return s.rate }
func cpu(s sample) float64  { return micros(s.cpu) }
func p50(s sample) float64  { return micros(s.p50) }

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return (sorted[len(sorted)/2] + sorted[(len(sorted)-1)/2]) / 2
}

func medianOf(all []sample, of func(sample) float64) float64 {
	var values []float64
	for _, s := range all {
		values = append(values, of(s))
	}
	return median(values)
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }
func millis(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }
