# What `cmake --install` installs, and `cpack -G DEB` packs: the program, a service of systemd, its configuration, man pages.
include(GNUInstallDirs)
set(service ${PROJECT_SOURCE_DIR}/proxy/service)

# the same program, wherever it is built
set(map -ffile-prefix-map=${PROJECT_SOURCE_DIR}/= -ffile-prefix-map=${PROJECT_BINARY_DIR}=build)
target_compile_options(weir_flags INTERFACE ${map})
target_link_options(weir_flags INTERFACE ${map})

# --- man pages: from what the program says of itself ---

find_package(Python3 REQUIRED COMPONENTS Interpreter)
file(MAKE_DIRECTORY ${PROJECT_BINARY_DIR}/man)
set(pages "")
foreach(page weir.8 weir.yaml.5)
    set(source ${service}/${page}.md)
    set(target ${PROJECT_BINARY_DIR}/man/${page}.gz)
    add_custom_command(OUTPUT ${target}
        COMMAND Python3::Interpreter ${service}/man.py $<TARGET_FILE:weir> ${PROJECT_VERSION} ${source} ${target}
        DEPENDS weir ${service}/man.py ${source} VERBATIM)
    string(REGEX REPLACE ".*\\." "" section ${page})
    install(FILES ${target} DESTINATION ${CMAKE_INSTALL_MANDIR}/man${section})
    list(APPEND pages ${target})
endforeach()
add_custom_target(manpages ALL DEPENDS ${pages})

# --- files ---

install(TARGETS weir DESTINATION ${CMAKE_INSTALL_BINDIR})
install(FILES conf/schema.json DESTINATION ${CMAKE_INSTALL_DATADIR}/weir)
install(FILES README.md ${service}/copyright DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(DIRECTORY conf/examples DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(FILES ${service}/weir.sysusers DESTINATION lib/sysusers.d RENAME weir.conf)
install(CODE "set(service \"${service}\")\nset(work \"${PROJECT_BINARY_DIR}\")")
install(SCRIPT ${service}/install.cmake)

# --- the package ---

# of what was built: `cpack` and `cmake --install` build nothing, tests least of all
set(CMAKE_SKIP_INSTALL_ALL_DEPENDENCY ON)

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_VERSION ${PROJECT_VERSION})
set(CPACK_PACKAGE_CONTACT "weir <root@localhost>" CACHE STRING "who maintains the package")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "HTTP proxy that keeps the traffic of a service in bounds")
set(CPACK_DEBIAN_PACKAGE_DESCRIPTION
"weir runs beside a service, such as an agent: it holds each tenant to its
limits, runs no event twice, and stands between the service and the providers
that it calls, so that one that fails is neither waited for nor made worse.
.
Installing it starts nothing: its configuration is /etc/weir/weir.yaml.")
set(CPACK_SET_DESTDIR ON) # /etc is below no prefix
set(CPACK_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_RELEASE 1)
set(CPACK_DEBIAN_PACKAGE_SECTION net)
set(CPACK_DEBIAN_PACKAGE_PRIORITY optional)
set(CPACK_DEBIAN_COMPRESSION_TYPE xz)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_DEPENDS "systemd | systemd-standalone-sysusers | systemd-sysusers") # and libraries
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS ca-certificates)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_DEBIAN_PACKAGE_CONTROL_EXTRA ${service}/conffiles ${service}/postinst ${service}/prerm ${service}/postrm)
include(CPack)
