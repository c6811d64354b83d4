package main

import (
	"context"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// configFlags are the flags of a command that override fields of the server's configuration.
type configFlags struct {
	flags *pflag.FlagSet
	file  string
	// set applies one flag to a configuration.
	set map[string]func(*registryserver.Config)
}

// newStorageFlags gives a command the flags that say where a registry's content is. They are the same for the server
// and for every command that works on its storage.
func newStorageFlags(c *cobra.Command) *configFlags {
	f := &configFlags{flags: c.Flags(), set: map[string]func(*registryserver.Config){}}
	f.flags.StringVar(&f.file, "config", "", "configuration `file` of the server in YAML; flags override it")
	f.string("organization", "first `element` of every repository name (default \"default\")", func(c *registryserver.Config) *string { return &c.Organization })
	f.string("registry", "second `element` of every repository name (default \"charts\")", func(c *registryserver.Config) *string { return &c.Registry })
	f.string("dir", "`directory` of the content, made when it is missing (default \"data\")", func(c *registryserver.Config) *string { return &c.Storage.Dir })
	f.string("s3-bucket", "`bucket` in S3 that has the content, in place of --dir", func(c *registryserver.Config) *string { return &c.Storage.S3.Bucket })
	f.string("s3-prefix", "`prefix` of all object names in the bucket, so that registries may share it (default none)", func(c *registryserver.Config) *string { return &c.Storage.S3.Prefix })
	f.string("s3-region", "`region` of the bucket (default us-east-1)", func(c *registryserver.Config) *string { return &c.Storage.S3.Region })
	f.string("s3-endpoint", "`address` of the S3 server (default Amazon's in the region)", func(c *registryserver.Config) *string { return &c.Storage.S3.Endpoint })
	f.string("s3-credentials", "`directory` with the files accessKeyID, secretAccessKey and perhaps sessionToken (default what the AWS tools would use)", func(c *registryserver.Config) *string { return &c.Storage.S3.CredentialsDir })
	f.string("s3-ca", "`file` of the authorities that sign the S3 server's certificate, in PEM (default the system's)", func(c *registryserver.Config) *string { return &c.Storage.S3.CAFile })
	pathStyle := f.flags.Bool("s3-path-style", false, "put the bucket's name into the path of addresses, as most S3 servers but Amazon's want")
	f.set["s3-path-style"] = func(c *registryserver.Config) { c.Storage.S3.PathStyle = *pathStyle }
	return f
}

// string adds a flag for one field.
func (f *configFlags) string(name, usage string, field func(*registryserver.Config) *string) {
	value := f.flags.String(name, "", usage)
	f.set[name] = func(c *registryserver.Config) { *field(c) = *value }
}

// duration adds a flag for a field whose zero value stands for its default, usual, and so cannot be asked for.
func (f *configFlags) duration(name string, usual time.Duration, usage string, field func(*registryserver.Config) *registryserver.Duration) {
	value := f.flags.Duration(name, usual, usage)
	f.set[name] = func(c *registryserver.Config) {
		if *field(c) = registryserver.Duration(*value); *value == 0 {
			*field(c) = -1
		}
	}
}

// given is the configuration file, if one was named, with the flags that were given over it.
func (f *configFlags) given() (registryserver.Config, error) {
	var config registryserver.Config
	if f.file != "" {
		var err error
		if config, err = registryserver.LoadConfig(f.file); err != nil {
			return config, err
		}
	}
	f.flags.Visit(func(given *pflag.Flag) {
		if apply, ok := f.set[given.Name]; ok {
			apply(&config)
		}
	})
	config.Version = version
	return config, nil
}

// config is what was given, completed and judged.
func (f *configFlags) config() (registryserver.Config, error) {
	config, err := f.given()
	if err != nil {
		return config, err
	}
	config = config.WithDefaults()
	if err := config.Validate(); err != nil {
		return config, &usageError{err}
	}
	return config, nil
}

// openExisting opens storage that a registry is in. Organization and registry need not be given; where they are, they
// must be the storage's.
func (f *configFlags) openExisting(ctx context.Context) (*repository.Store, error) {
	config, err := f.given()
	if err != nil {
		return nil, err
	}
	if err := config.WithDefaults().Validate(); err != nil {
		return nil, &usageError{err}
	}
	return registryserver.OpenExisting(ctx, config)
}
