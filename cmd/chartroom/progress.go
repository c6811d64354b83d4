package main

import (
	"fmt"
	"io"
	"strings"
	"time"
)

const (
	// barStep is how often a bar is drawn, and lineStep how often a line is printed where there is no terminal.
	barStep  = 100 * time.Millisecond
	lineStep = 10 * time.Second
	barWidth = 24
)

// progress shows how far a long command has come: a bar on a terminal, now and then a line otherwise. It is not for
// several goroutines.
type progress struct {
	w        io.Writer
	terminal bool
	now      func() time.Time
	shown    time.Time
	drawn    bool
}

func newProgress(w io.Writer) *progress {
	return &progress{w: w, terminal: isTerminal(w), now: time.Now, shown: time.Now()}
}

// update says that done of total are done; total is 0 when unknown. text describes it in words.
func (p *progress) update(done, total int64, text string) {
	step := lineStep
	if p.terminal {
		step = barStep
	}
	if now := p.now(); now.Sub(p.shown) < step {
		return
	} else {
		p.shown = now
	}
	if !p.terminal {
		fmt.Fprintln(p.w, text)
		return
	}
	share := 0.0
	if total > 0 {
		share = min(float64(done)/float64(total), 1)
	}
	full := int(share * barWidth)
	fmt.Fprintf(p.w, "\r\x1b[K[%s%s] %3.0f %% %s", strings.Repeat("#", full), strings.Repeat("-", barWidth-full), share*100, text)
	p.drawn = true
}

// clear removes the bar, so that other lines can be printed, or at the end.
func (p *progress) clear() {
	if p.drawn {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.drawn = false
	}
}

// inBytes is a number of bytes in words.
func inBytes(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	size, unit := float64(n), 0
	for size >= 1024 && unit < len(units)-1 {
		size, unit = size/1024, unit+1
	}
	if unit == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", size, units[unit])
}
