package access

import "time"

// SetPollInterval makes Watch look at the file more often than once a second.
func (e *Enforcer) SetPollInterval(d time.Duration) { e.interval = d }

// LookAtFile does what Watch does at each of its intervals.
func (e *Enforcer) LookAtFile() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.takeFile()
}
