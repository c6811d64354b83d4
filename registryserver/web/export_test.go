package web

// Below lists what can stand behind "/-/" in the address of a version.
func Below() []string {
	var all []string
	for tab := range newKinds().tabs {
		all = append(all, tab)
	}
	return all
}

// Indent makes the text of a manifest.
func Indent(raw []byte) []byte { return indent(raw) }
