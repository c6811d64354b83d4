package wire

// UsageState is what a registry stores.
type UsageState struct {
	// SizeBytes of all blobs and manifests.
	SizeBytes int64 `json:"sizeBytes"`
	// Charts that have a version.
	Charts int64 `json:"charts"`
	// Versions of all charts.
	Versions int64 `json:"versions"`
}
