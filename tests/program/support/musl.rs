//! A program that resolves names with musl.

use std::path::PathBuf;
use std::process::Command;

use super::Dir;

/// Builds the program; it prints each address of the name in its argument, or the error.
pub(crate) fn look_up(dir: &Dir) -> PathBuf {
    let (source, program) = (dir.write("look.c", LOOK), dir.file("look"));
    let status = Command::new("musl-gcc").arg("-static").arg("-o").arg(&program).arg(source).status();
    assert!(status.expect("musl-gcc runs").success());
    program
}

/// Source of a program that prints each address of a name on its own line.
const LOOK: &str = r#"
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>

int main(int argc, char **argv) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found, *at;
    char text[128];
    int error = argc == 2 ? getaddrinfo(argv[1], "443", &hints, &found) : EAI_FAIL;
    if (error) {
        puts(gai_strerror(error));
        return 1;
    }
    for (at = found; at; at = at->ai_next)
        if (!getnameinfo(at->ai_addr, at->ai_addrlen, text, sizeof text, NULL, 0, NI_NUMERICHOST))
            puts(text);
    return 0;
}
"#;
