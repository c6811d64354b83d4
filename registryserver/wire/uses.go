package wire

import "time"

// Uses says which tokens of the snapshot in force a pod has accepted since it began.
type Uses struct {
	// Count grows whenever something here changes.
	Count uint64 `json:"count"`
	// Tokens are sorted by SHA256. One that several RegistryTokens have may be there several times.
	Tokens []TokenUse `json:"tokens,omitempty"`
}

// TokenUse says when a token was used last.
type TokenUse struct {
	// SHA256 is as in [Token].
	SHA256 string `json:"sha256"`
	// At is when the ten minutes began in which it was used last, UTC.
	At time.Time `json:"at"`
}
