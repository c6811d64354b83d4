package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// choice is the value of a flag that takes one of a few words.
type choice struct {
	word  string
	words []string
}

// String is the word that was chosen.
func (c *choice) String() string { return c.word }

// Type is what help shows for the value.
func (c *choice) Type() string { return strings.Join(c.words, "|") }

// Set chooses a word.
func (c *choice) Set(s string) error {
	if !slices.Contains(c.words, s) {
		return fmt.Errorf("there are %s", strings.Join(c.words, " and "))
	}
	c.word = s
	return nil
}

// choiceFlag adds a flag that takes one of words, the first where nothing is written. shorthand may be empty.
func choiceFlag(c *cobra.Command, name, shorthand, usage string, words ...string) *choice {
	chosen := &choice{words[0], words}
	c.Flags().VarP(chosen, name, shorthand, usage)
	complete(c, name, words...)
	return chosen
}

// outputFlag adds the flag that says how a result is printed.
func outputFlag(c *cobra.Command) *choice {
	return choiceFlag(c, "output", "o", "how to print the result", "table", "json")
}

// asJSON is true where a result is to be printed for programs.
func (c *choice) asJSON() bool { return c.word == "json" }

// complete has the shell offer words for a flag.
func complete(c *cobra.Command, flag string, words ...string) {
	_ = c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
}
