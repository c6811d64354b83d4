package reports

import (
	"time"

	"github.com/chartroom-dev/chartroom/controllers/internal/board"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// Reasons for which an inventory is stale.
const (
	// ReasonNoReplicas: the registry has no ready pod.
	ReasonNoReplicas = "NoReplicas"
	// ReasonNoAnswer: pods are ready, and none answers.
	ReasonNoAnswer = "NoAnswer"
	// ReasonBuilding: the pods that answer have not yet seen all that is stored.
	ReasonBuilding = "Building"
	// ReasonPodsOutdated: the pods' program is older than inventories are.
	ReasonPodsOutdated = "PodsOutdated"
)

// Inventory is what the pods of one registry say that it holds.
type Inventory struct {
	// Known is the newest that a pod said, without its clock; nil before one did.
	Known *wire.Inventory
	// Stale says why Known is not what the registry holds now; nil where it is.
	Stale *Stale
}

// Stale says why no pod tells what the registry holds.
type Stale struct {
	// Reason is one of the above.
	Reason string
	// Since is the time from which on no pod did, in whole seconds UTC.
	Since time.Time
}

// InventoryBoard records the inventory of every registry.
type InventoryBoard = board.Board[Inventory]

// NewInventories returns an empty board.
func NewInventories() *InventoryBoard { return board.New[Inventory]() }
