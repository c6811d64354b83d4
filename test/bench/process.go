package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of the times in /proc, which is the same on all Linux machines: USER_HZ.
const tick = 10 * time.Millisecond

// processTime reads the CPU time, in user and in kernel mode, that a process has taken (proc_pid_stat(5)).
func processTime(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name of the program, in parentheses, may hold anything.
	fields := strings.Fields(string(stat)[strings.LastIndexByte(string(stat), ')')+1:])
	if len(fields) < 13 {
		return 0, errors.New("/proc/PID/stat has an unknown form")
	}
	return ticks(fields[11:13])
}

// machineTime reads the CPU time that all processes together have taken (proc_stat(5)).
func machineTime() (time.Duration, error) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(string(stat), "\n")
	fields := strings.Fields(first)
	if len(fields) < 8 {
		return 0, errors.New("/proc/stat has an unknown form")
	}
	// user, nice and system; irq and softirq.
	return ticks(append(fields[1:4:4], fields[6:8]...))
}

func ticks(fields []string) (time.Duration, error) {
	var sum time.Duration
	for _, f := range fields {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(n) * tick
	}
	return sum, nil
}

// memoryOf reads a line of /proc/PID/status, such as VmRSS or VmHWM, in MiB.
func memoryOf(pid int, line string) (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for l := range strings.Lines(string(status)) {
		if fields := strings.Fields(l); len(fields) > 1 && fields[0] == line+":" {
			kib, err := strconv.ParseFloat(fields[1], 64)
			return kib / 1024, err
		}
	}
	return 0, fmt.Errorf("the kernel does not say %s", line)
}
