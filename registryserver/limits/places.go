package limits

import "context"

// Places are for what may run at once, as many as there is room for: make(Places, n).
type Places chan struct{}

// Enter takes a place, which leave gives back. Error: that of ctx, when it ends first.
func (p Places) Enter(ctx context.Context) (leave func(), err error) {
	select {
	case p <- struct{}{}:
		return func() { <-p }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
