package limits

// Known is how many clients are remembered.
func (r *Rates) Known() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.clients)
}
