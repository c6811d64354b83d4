package dir

// Kernel is the System that New uses.
var Kernel System = kernel{}

// NewOn is New with another System.
var NewOn = newOn

// Plain has the bucket do without what not every kernel and file system has: calls that do not follow symbolic links,
// and files that are written before they have a name.
func (b *Bucket) Plain() {
	b.open = openStepwise
	b.features.unnamed = false
}
