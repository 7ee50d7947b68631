//! Generates the CRI client and server from the definition that nodectl uses.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=../../nodectl/proto/cri.proto");
    let definition = protox::compile(["cri.proto"], ["../../nodectl/proto"])?;
    tonic_prost_build::configure().generate_default_stubs(true).compile_fds(definition)?;
    Ok(())
}
