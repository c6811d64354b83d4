// Package access decides who may do what in one registry: it makes and reads registry tokens, compiles access
// snapshots, and judges credentials against the snapshot in force. Both the server and the operator use it, so that
// they agree.
package access
