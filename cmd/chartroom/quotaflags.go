package main

import (
	"github.com/chartroom-dev/chartroom/registryserver"
)

// quota adds the flags that bound what is stored.
func (f *configFlags) quota() {
	for _, q := range []struct {
		name, usage string
		field       func(*registryserver.Config) *registryserver.Quantity
	}{
		{"quota-size", "most `bytes` that all charts may have together, for example 10Gi (default no limit)", func(c *registryserver.Config) *registryserver.Quantity { return &c.Quota.Size }},
		{"quota-chart-size", "most `bytes` that the archive of one chart may have, for example 10Mi (default no limit)", func(c *registryserver.Config) *registryserver.Quantity { return &c.Quota.ChartSize }},
	} {
		var value registryserver.Quantity
		f.flags.Func(q.name, q.usage, func(s string) error { return value.UnmarshalText([]byte(s)) })
		f.set[q.name] = func(c *registryserver.Config) { *q.field(c) = value }
	}
	for _, q := range []struct {
		name, usage string
		field       func(*registryserver.Config) *int64
	}{
		{"quota-charts", "most charts that there may be (default no limit)", func(c *registryserver.Config) *int64 { return &c.Quota.Charts }},
		{"quota-versions", "most versions that all charts may have together (default no limit)", func(c *registryserver.Config) *int64 { return &c.Quota.Versions }},
	} {
		value := f.flags.Int64(q.name, 0, q.usage)
		f.set[q.name] = func(c *registryserver.Config) { *q.field(c) = *value }
	}
}
